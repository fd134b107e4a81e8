"""A whole study of the shipped model, small: run, resumed, exported, and held against attach."""

import json
import shutil

import numpy as np
import pytest

from resprune import PruningConfig, attach
from resprune.alpha import FEATURE_NAMES, AlphaPredictor, form_digest
from resprune.budget import Count, Energy
from resprune.errors import ResPruneError, StudyError
from resprune.setting import Adaptive, Setting
from tuner import tasks
from tuner.progress import Silent
from tuner.results.schema import Results
from tuner.results.statistics import Intervals
from tuner.run import run_study, summary
from tuner.scoring.split import Split
from tuner.stages.adaptive import Fitted, fit_adaptive
from tuner.stages.baselines import METHODS, baseline, fixed_policies, random_scores
from tuner.stages.facts import _left_out
from tuner.stages.opened import OpenedStudy
from tuner.stages.policies import plans_by_prompt
from tuner.stages.report import report_split
from tuner.study import load_study, study_from_dict

SIX = Count(count=6)


def make(**changes):
    data = {
        "study": {"name": "small", "trials": 6},
        "backbone": {"model": "nano-llava", "family": "llava", "device": "cpu"},
        "task": {
            "name": "nano-scenes",
            "tune": {"split": "tune", "samples": 24},
            "fit": {"split": "fit", "samples": 96},
            "report": {"split": "report", "samples": 24},
        },
        "search": {"budget": [22, 6], "positions": ["keep", "compact"]},
        "alpha": {"grid": [0.0, 0.5, 2.0], "budgets": [6]},
        "report": {"examples": 2},
    }
    for section, values in changes.items():
        data[section] = {**data.get(section, {}), **values}
    return study_from_dict(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run_study(make(), folder)
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def found(runs):
    return Results.load(runs / "small")


def test_everything_is_left_in_the_run_folder(runs, found):
    folder = runs / "small"
    for name in ("study.journal", "study.toml", "outcomes.sqlite", "alpha_predictor.json",
                 "config/pruning_config.json", "report.html"):  # fmt: skip
        assert (folder / name).is_file(), name
    assert not list(folder.rglob("*.tmp"))
    assert load_study(folder / "study.toml") == make()
    assert len(found.trials) == 6
    assert found.cost.encoder_calls == sum(split.images for split in found.splits.values()) == 18
    json.dumps(summary(found, folder), allow_nan=False)


def row_of(found, kind, budget=None):
    """The one row of a kind and a count."""
    (row,) = [r for r in found.report if (r.kind, r.tokens) == (kind, budget)]
    return row


def test_every_row_is_there_once(found):
    names = [(row.kind, row.policy.method, row.tokens) for row in found.report]
    assert len(set(names)) == len(names)
    simple = [("random", "random"), *(("baseline", method) for method in METHODS)]
    simple += [("alpha-0", "resprune"), ("paper-default", "resprune")]
    for tokens in (22, 6):
        here = [(kind, method) for kind, method, n in names if n == tokens and kind != "adaptive"]
        assert here == [*simple, ("tuned", "resprune")]
        tune = [(r.kind, r.policy.method) for r in found.baselines if r.tokens == tokens]
        assert tune == simple
    assert ("unpruned", "unpruned", None) in names
    adopted = [c.tokens for c in found.chosen if isinstance(c.policy, Adaptive)]
    assert [row.tokens for row in found.adaptive] == adopted
    assert [n for kind, _, n in names if kind == "adaptive"] == adopted
    (note,) = [note for note in found.notes if "all prompts at the budgets" in note]
    for chosen in found.chosen:  # each with its reason
        assert (f"{chosen.tokens} (" in note) == (chosen.tokens not in adopted)
    assert {curve.split for curve in found.curves} == {"tune", "fit"}


def test_a_choice_a_budget(found):
    assert [c.tokens for c in found.chosen] == [22, 6]
    for chosen in found.chosen:
        assert chosen.setting.method == "resprune"
        assert chosen.policy.budget == chosen.setting.budget
        assert row_of(found, "tuned", chosen.tokens).policy == chosen.setting


def test_pairs_and_bounds_agree(found):
    unpruned = row_of(found, "unpruned").score.mean
    for row in found.report:
        if row.kind != "unpruned":
            assert row.versus_unpruned.mean == pytest.approx(row.score.mean - unpruned)
            assert row.versus_unpruned.verdict == "too few images"  # three of them
            simple = [r.score.mean for r in found.report if r.tokens == row.tokens
                      and r.kind in ("random", "baseline", "alpha-0", "paper-default")]  # fmt: skip
            assert (row.versus_strongest is None) == (row.kind not in ("tuned", "adaptive"))
            if row.versus_strongest is not None:
                assert row.versus_strongest.mean == pytest.approx(row.score.mean - max(simple))
    for adaptive in found.adaptive:
        assert adaptive.adaptive == row_of(found, "adaptive", adaptive.tokens).score
        assert adaptive.oracle.mean >= max(
            adaptive.adaptive.mean, adaptive.best_fixed.mean, adaptive.best_per_group.mean
        )
        assert sum(adaptive.chosen) == 24


def test_a_searched_baseline_is_no_rival_and_its_setting_is_the_one_found(opened):
    chosen = Setting.of("resprune", 6, alpha=2.0, pooling="mean")
    rivals = [Setting.of("relevance", 6, pooling="pooled"), Setting.of("scope", 6)]
    named = fixed_policies(opened, chosen, rivals)
    assert [setting.method for kind, setting in named if kind == "rival"] == ["scope"]
    (relevance,) = [setting for _, setting in named if setting.method == "relevance"]
    assert relevance == rivals[0]
    (alone,) = [s for _, s in fixed_policies(opened, chosen, []) if s.method == "relevance"]
    assert alone.option("pooling") == "mean"  # the ablation of what was chosen
    (alpha0,) = [setting for kind, setting in named if kind == "alpha-0"]
    assert alpha0 == chosen.with_options(alpha=0.0)
    other = fixed_policies(opened, Setting.of("scope", 6), [])
    (alpha0,) = [setting for kind, setting in other if kind == "alpha-0"]
    assert alpha0 == opened.paper(SIX).with_options(alpha=0.0)


@pytest.fixture(scope="module")
def fitted(opened):
    return fit_adaptive(opened, {SIX: Setting.of("resprune", 6, seed_strategy="l2_norm")})


@pytest.mark.parametrize("adopted", [True, False])
def test_arms_are_scored_where_choosing_by_prompt_was_adopted(opened, fitted, monkeypatch, adopted):
    monkeypatch.setattr(Fitted, "gains", lambda self, budget: adopted)
    asked = []
    real = Split.scores
    monkeypatch.setattr(Split, "scores", lambda self, s: asked.extend(s) or real(self, s))
    chosen = Setting.of("resprune", 6, alpha=1.3, seed_strategy="l2_norm")
    best = ("baseline", Setting.of("l2_norm", 6))
    policies = {SIX: fixed_policies(opened, chosen, [])}
    reported = report_split(opened, policies, {SIX: best}, fitted)
    arms = set(fitted.policies[SIX].arms) - {setting for _, setting in policies[SIX]}
    assert arms
    assert arms <= set(asked) if adopted else not arms & set(asked)
    assert bool(reported.adaptive) == any(r.kind == "adaptive" for r in reported.rows) == adopted
    if adopted:
        row = reported.adaptive[SIX]
        other = opened.split("report").score(best[1]).mean()
        assert row.versus_best_fixed.mean == pytest.approx(row.adaptive.mean - other)
        assert row.versus_best_fixed.against == "l2_norm"
        fixed = row.adaptive.mean - row.best_fixed.mean
        assert row.adaptive_minus_fixed.mean == pytest.approx(fixed)
        assert row.oracle_minus_fixed.mean >= fixed
        assert reported.panels[SIX][0].kind == "adaptive"


def test_what_a_tower_or_a_budget_does_not_allow_is_left_out(opened, monkeypatch):
    energy = Energy(energy=0.1, most=22)
    named = fixed_policies(opened, Setting.of("resprune", energy), [])
    assert "pool" not in {setting.method for _, setting in named}
    assert "l2_norm" in {setting.method for _, setting in named}
    assert baseline(opened, "pool", energy, opened.paper(energy)) == (
        None,
        "does not take the budget energy 0.1 (1 to 22)",
    )
    monkeypatch.setattr(opened.backbone, "seed_signals", ())
    plain = Setting.of("resprune", 6, seed_strategy="l2_norm")
    named = fixed_policies(opened, plain, [])
    assert "cls_attention" not in {setting.method for _, setting in named}
    (note,) = [n for n in _left_out(opened) if "cls_attention" in n]
    assert "needs a signal that the vision tower does not give" in note


def test_what_is_exported_is_measured_on_the_studys_own_prompts(found):
    whole, *rows = found.efficiency.rows
    assert [row.policy for row in rows] == [chosen.policy for chosen in found.chosen]
    assert [row.error for row in rows] == [None] * len(rows)
    assert [row.kept for row in rows] == [chosen.tokens for chosen in found.chosen]
    assert whole.kept == found.model.visual_tokens
    assert found.cost.seconds["efficiency"] > 0


def test_running_again_repeats_nothing(copied, found):
    again = run_study(make(), copied)
    assert (again.cost.encoder_calls, again.cost.prefills) == (0, 0)
    assert "resumed" in again.notes[-1]
    for field in set(Results.model_fields) - {"cost", "notes", "efficiency"}:
        assert getattr(again, field) == getattr(found, field), field


class Stopping(Silent):
    """Interrupts when the third trial is complete."""

    def trial(self, trial, done, total):
        if done == 3:
            raise KeyboardInterrupt


def test_an_interrupted_study_ends_as_if_it_had_not_been(tmp_path, found):
    with pytest.raises(KeyboardInterrupt):
        run_study(make(), tmp_path, Stopping())
    assert not (tmp_path / "small" / "results.json").exists()
    again = run_study(make(), tmp_path)
    for field in ("chosen", "report", "adaptive", "curves", "importances", "recommended"):
        assert getattr(again, field) == getattr(found, field), field
    drop = {"seconds"}
    assert [t.model_dump(exclude=drop) for t in again.trials] == [
        t.model_dump(exclude=drop) for t in found.trials
    ]


def test_more_report_samples_add_to_what_is_there_and_choose_nothing(copied, found):
    again = run_study(make(task={"report": {"split": "report", "samples": 32}}), copied)
    assert again.splits["report"].samples == 32
    assert again.cost.encoder_calls == 4  # the file of three images is one of four now
    for field in ("trials", "baselines", "chosen", "recommended"):
        assert getattr(again, field) == getattr(found, field), field


class Staged(Silent):
    """Knows the stage."""

    now = ""

    def stage(self, name):
        self.now = name


def test_the_report_split_is_scored_once_at_the_end(tmp_path, monkeypatch):
    progress, asked = Staged(), []
    real = Split._outcomes

    def watched(self, plans, kind):
        asked.append((progress.now, self.name))
        return real(self, plans, kind)

    monkeypatch.setattr(Split, "_outcomes", watched)
    study = make(study={"trials": 2}, task={"report": {"split": "report", "samples": 8}})
    run_study(study, tmp_path, progress)
    assert {name for _, name in asked} == {"tune", "fit", "report"}
    assert {stage for stage, name in asked if name == "report"} == {"report"}
    first = [name for _, name in asked].index("report")
    assert {name for _, name in asked[first:]} == {"report"}


def test_another_study_may_not_take_the_folder(copied):
    with pytest.raises(StudyError, match=r"other settings \(search.options differ\)"):
        run_study(make(search={"seed_strategy": ["l2_norm"]}), copied)


def test_a_budget_over_t_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(StudyError, match="197 is over the 196 visual tokens"):
        run_study(make(search={"budget": [197]}, alpha={"budgets": []}), tmp_path)
    assert not (tmp_path / "small" / "study.journal").exists()


def test_a_signal_the_tower_lacks_is_refused(tmp_path):
    with pytest.raises(ResPruneError, match="received_attention"):
        run_study(make(search={"seed_strategy": ["received_attention"]}), tmp_path)


def test_another_family_and_no_such_model(tmp_path):
    with pytest.raises(StudyError, match=r"Did you mean 'nano-llava'"):
        run_study(make(backbone={"model": "nano-lava"}), tmp_path)

    with pytest.raises(
        StudyError, match="says 'llava_next' and nano-llava is of the family 'llava'"
    ):
        run_study(make(backbone={"family": "llava_next"}), tmp_path)


def scenes_folder(folder, labels):
    """nano-scenes as a local folder of images and JSON lines."""
    for split in ("tune", "report"):
        lines = []
        for sample in tasks.get("nano-scenes").samples(split, 16):
            sample.load_image().save(folder / f"{sample.image_id}.png")
            line = {"image": f"{sample.image_id}.png", "question": sample.question}
            lines.append(json.dumps(line | ({"answer": sample.answers[0]} if labels else {})))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("metric", "objective"),
    [
        ("fidelity", {"kind": "quality-floor", "keep": 0.7}),
        ("log_likelihood", {"kind": "fixed-budget", "budget": 22}),
        ("score", "pareto"),
    ],
)
def test_a_local_folder_under_every_metric_and_objective(tmp_path, metric, objective):
    scenes_folder(tmp_path, labels=metric != "fidelity")
    study = make(
        study={"objective": objective, "trials": 4},
        task={"name": "table", "data": str(tmp_path), "metric": metric, "answer_format": "",
              "max_new_tokens": 3, "tune": {"split": "tune", "samples": 16},
              "report": {"split": "report", "samples": 16}},
        search={"budget": [22, 6] if metric != "log_likelihood" else []},
        alpha={"adaptive": False, "budgets": []},
    )  # fmt: skip
    found = run_study(study, tmp_path / "runs")
    unpruned = row_of(found, "unpruned")
    tuned, random = row_of(found, "tuned", 22), row_of(found, "random", 22)
    assert tuned.score.mean > random.score.mean
    if metric == "fidelity":
        assert unpruned.score.mean == 1.0
        assert found.recommended.count in (22, 6)
    else:
        # an empty answer_format leaves the prompts of nano-scenes, so the model answers well
        assert unpruned.score.mean > (-1.5 if metric == "log_likelihood" else 0.6)
    if metric == "log_likelihood":
        assert found.recommended.count == 22
        assert unpruned.score.high <= 0.0


def test_an_image_in_two_splits_is_refused(tmp_path):
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    line = json.dumps({"image": "a.png", "question": "q?", "answer": "a"}) + "\n"
    for split in ("one", "two"):
        (tmp_path / f"{split}.jsonl").write_text(line)
    study = make(
        task={
            "name": "table",
            "data": str(tmp_path),
            "tune": {"split": "one", "samples": 1},
            "report": {"split": "two", "samples": 1},
        },
        alpha={"adaptive": False, "budgets": []},
    )
    with pytest.raises(StudyError, match=r"task\.report: image 'a\.png' is in tune too"):
        run_study(study, tmp_path / "runs")


@pytest.fixture(scope="module")
def opened(runs):
    with OpenedStudy(make(), runs / "small") as study:
        yield study


def answers_of_attach(opened, config, budget):
    """Answers to the report split one sample at a time, as a user would, and what was kept."""
    answers, records = [], []
    backbone = opened.backbone
    with attach(backbone.model, backbone.processor, config) as attached:
        for sample in opened.split("report").samples:
            inputs = backbone.processor(
                images=sample.load_image(),
                text=backbone.chat_prompt(sample.prompt),
                return_tensors="pt",
            )
            output = backbone.model.generate(
                **inputs, budget=budget, max_new_tokens=3, do_sample=False
            )
            new = output[0, inputs["input_ids"].shape[1] :]
            text = backbone.processor.tokenizer.decode(new, skip_special_tokens=True)
            answers.append(text.strip())
            records.append(attached.last)
    return answers, records


def test_the_exported_config_scores_what_the_report_says(runs, opened, found):
    config = PruningConfig.from_pretrained(runs / "small" / "config")
    split = opened.split("report")
    for chosen in found.chosen:
        kind = "adaptive" if isinstance(chosen.policy, Adaptive) else "tuned"
        answers, _ = answers_of_attach(opened, config, chosen.setting.budget)
        scores = [
            opened.bench.task.score(answer, sample)
            for answer, sample in zip(answers, split.samples, strict=True)
        ]
        assert row_of(found, kind, chosen.tokens).score.mean == pytest.approx(np.mean(scores))


@pytest.mark.parametrize(
    "setting",
    [
        Setting.of("resprune", 11, alpha=2.0, seed_strategy="relevance"),
        Setting.of("visionzip", 11, contextual=0.4),
    ],
    ids=lambda setting: setting.method,
)
def test_a_study_by_hand_equals_attach(opened, tmp_path, setting):
    """Scored, exported and served: the same answers, sample by sample."""
    config = PruningConfig.from_dict({"default": setting.budget, "table": [setting]})
    config.save_pretrained(tmp_path)
    split = opened.split("report")
    (plans,) = split.plans([setting])
    served, records = answers_of_attach(opened, PruningConfig.from_pretrained(tmp_path), 11)
    assert split.answers([plans]) == [served]
    assert [r.kept[0].tolist() for r in records] == [plan.kept.tolist() for plan in plans]


def made_up_predictor(features, forms, arms, budget):
    """A predictor that gives different prompts different arms, and knows some forms."""
    count, width = len(arms), features.shape[1]
    rng = np.random.default_rng(0)
    return AlphaPredictor.from_dict(
        {
            "schema_version": 3,
            "forms": sorted(map(form_digest, forms)),
            "features": list(FEATURE_NAMES),
            "center": features.mean(axis=0).tolist(),
            "scale": (features.std(axis=0) + 0.1).tolist(),
            "low": features.min(axis=0).tolist(),
            "high": features.max(axis=0).tolist(),
            "arms": arms,
            "budgets": [
                {
                    "budget": {"count": budget},
                    "mean_losses": [0.0] * count,
                    "strength": 1.0,
                    "model": {
                        "kind": "linear",
                        "pairs": [],
                        "weights": rng.normal(size=(width, count)).tolist(),
                        "bias": [0.0] * count,
                    },
                }
            ],
        }
    )


@pytest.mark.parametrize("vary", ["alpha", "seed_strategy"])
def test_an_adaptive_study_by_hand_equals_attach(opened, tmp_path, vary):
    split = opened.split("report")
    arms = [{"alpha": a} for a in (0.0, 0.5, 1.0, 4.0)]
    if vary == "seed_strategy":
        arms = [{"alpha": 0.5, "seed_strategy": s} for s in ("cls_attention", "relevance")]
    features = split.features()
    forms = split.forms()
    known = sorted(set(forms))[::2]
    predictor = made_up_predictor(features, known, arms, 11)
    base = Setting.of("resprune", 11, seed_strategy="cls_attention")
    policy = Adaptive(arms=tuple(base.with_options(**arm) for arm in arms), fallback=0)
    data = {"default": 11, "table": [policy]}
    PruningConfig.from_dict(data, predictor=predictor).save_pretrained(tmp_path)
    chosen = predictor.arms_for(features, forms, policy.budget)
    outside = [form not in known for form in forms]
    assert {True, False} == set(outside)
    assert set(chosen[outside].tolist()) == {predictor.fallback(11)}
    assert len(set(chosen.tolist())) > 1
    plans = plans_by_prompt(split, policy, chosen)
    served, records = answers_of_attach(opened, PruningConfig.from_pretrained(tmp_path), 11)
    assert split.answers([plans]) == [served]
    assert [record.outside for record in records] == [[each] for each in outside]
    for record, arm, plan in zip(records, chosen.tolist(), plans, strict=True):
        assert record.settings == [policy.arms[arm]]
        assert record.kept[0].tolist() == plan.kept.tolist()


def test_random_scores_are_the_mean_of_draws(opened):
    split = opened.split("report")
    draws = [split.score(Setting.of("random", 6, seed=seed)) for seed in (0, 1)]
    assert not np.array_equal(*draws)
    assert np.allclose(random_scores(split, Setting.of("l2_norm", 6), 0), np.mean(draws, axis=0))


def test_everything_measured_at_a_budget_is_placed_alike(opened):
    chosen = Setting.of("resprune", 6, positions="compact")
    named = fixed_policies(opened, chosen, [])
    kinds = [kind for kind, _ in named]
    assert {"random", "baseline", "alpha-0", "tuned"} <= set(kinds)
    for kind, setting in named:
        if kind != "paper-default":  # as the study's own search places it
            assert setting.positions == "compact", kind


def test_intervals_by_group_partition_the_samples():
    intervals = Intervals(["a", "a", "b", "c"], ["x", "y", "x", "y"])
    by_group = intervals.by_group(np.array([1.0, 0.0, 0.5, 1.0]))
    assert {name: value.mean for name, value in by_group.items()} == {"x": 0.75, "y": 0.5}
