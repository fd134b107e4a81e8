"""A whole study of the shipped model, small: run, resumed, exported, and held against attach."""

import json
import shutil

import numpy as np
import pytest
from tuner.evaluate import Setting
from tuner.proving import Intervals, adaptive_kept, random_scores

from resprune import PruningConfig, attach
from resprune.alpha import FEATURE_NAMES, AlphaPredictor, BudgetModel, Linear
from resprune.errors import ResPruneError, StudyError
from tuner import tasks
from tuner.results import Results
from tuner.run import Silent, _Run, run_study, summary
from tuner.study import load_study, study_from_dict


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
        "report": {"examples": 2, "resamples": 200},
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
    for name in ("study.journal", "study.toml", "outcomes.jsonl", "alpha_predictor.json",
                 "config/pruning_config.json", "report.html"):  # fmt: skip
        assert (folder / name).is_file(), name
    assert not list(folder.rglob("*.tmp"))
    assert load_study(folder / "study.toml") == make()
    assert len(found.trials) == 6
    assert found.cost.encoder_calls == sum(split.images for split in found.splits.values()) == 18
    json.dumps(summary(found, folder), allow_nan=False)


def test_every_row_is_there_once(found):
    names = [(row.name, row.budget) for row in found.report]
    assert len(set(names)) == len(names)
    fixed = {"random", "paper-default", "tuned", "relevance-only", "alpha-0"}
    assert {name for name, budget in names if budget == 22} == fixed
    assert {name for name, budget in names if budget == 6} == {*fixed, "adaptive"}
    assert ("unpruned", None) in names
    assert [row.budget for row in found.adaptive] == [6]
    assert {curve.split for curve in found.curves} == {"tune", "fit"}


def test_one_set_of_relevance_options_and_positions(found):
    assert len({(c.pooling, c.normalization, c.positions) for c in found.chosen}) == 1
    assert {c.budget for c in found.chosen} == {22, 6}


def test_pairs_and_bounds_agree(found):
    rows = {(row.name, row.budget): row for row in found.report}
    unpruned = rows["unpruned", None].score.mean
    for (name, budget), row in rows.items():
        if name != "unpruned":
            assert row.versus_unpruned.mean == pytest.approx(row.score.mean - unpruned)
            default = rows["paper-default", budget].score.mean
            if row.versus_paper is not None:
                assert row.versus_paper.mean == pytest.approx(row.score.mean - default)
    (adaptive,) = found.adaptive
    assert adaptive.adaptive == rows["adaptive", 6].score
    assert adaptive.oracle.mean >= max(
        adaptive.adaptive.mean, adaptive.best_fixed.mean, adaptive.best_per_group.mean
    )
    assert sum(adaptive.alpha_histogram.values()) == 24


def test_running_again_repeats_nothing(copied, found):
    again = run_study(make(), copied)
    assert (again.cost.encoder_calls, again.cost.prefills) == (0, 0)
    assert "resumed" in again.notes[-1]
    for field in set(Results.model_fields) - {"cost", "notes"}:
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
    for field in ("chosen", "report", "adaptive", "curves", "importances", "recommended_budget"):
        assert getattr(again, field) == getattr(found, field), field
    drop = {"seconds"}
    assert [t.model_dump(exclude=drop) for t in again.trials] == [
        t.model_dump(exclude=drop) for t in found.trials
    ]


def test_more_report_samples_add_to_what_is_there(copied):
    again = run_study(make(task={"report": {"split": "report", "samples": 32}}), copied)
    assert again.splits["report"].samples == 32
    assert again.cost.encoder_calls == 4  # the file of three images is one of four now


def test_another_study_may_not_take_the_folder(copied):
    with pytest.raises(StudyError, match=r"other settings \(search.seed_strategy differ\)"):
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
        task={"name": "jsonl", "folder": str(tmp_path), "metric": metric, "answer_format": "",
              "max_new_tokens": 3, "tune": {"split": "tune", "samples": 16},
              "report": {"split": "report", "samples": 16}},
        search={"budget": [22, 6] if metric != "log_likelihood" else []},
        alpha={"adaptive": False, "budgets": []},
    )  # fmt: skip
    found = run_study(study, tmp_path / "runs")
    unpruned = next(row for row in found.report if row.name == "unpruned")
    tuned = next(row for row in found.report if (row.name, row.budget) == ("tuned", 22))
    random = next(row for row in found.report if (row.name, row.budget) == ("random", 22))
    assert tuned.score.mean > random.score.mean
    if metric == "fidelity":
        assert unpruned.score.mean == 1.0
        assert found.recommended_budget in (22, 6)
    else:
        # an empty answer_format leaves the prompts of nano-scenes, so the model answers well
        assert unpruned.score.mean > (-1.5 if metric == "log_likelihood" else 0.6)
    if metric == "log_likelihood":
        assert found.recommended_budget == 22
        assert unpruned.score.high <= 0.0


def test_an_image_in_two_splits_is_refused(tmp_path):
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    line = json.dumps({"image": "a.png", "question": "q?", "answer": "a"}) + "\n"
    for split in ("one", "two"):
        (tmp_path / f"{split}.jsonl").write_text(line)
    study = make(
        task={
            "name": "jsonl",
            "folder": str(tmp_path),
            "tune": {"split": "one", "samples": 1},
            "report": {"split": "two", "samples": 1},
        },
        alpha={"adaptive": False, "budgets": []},
    )
    with pytest.raises(StudyError, match=r"task\.report: image 'a\.png' is in tune too"):
        run_study(study, tmp_path / "runs")


@pytest.fixture(scope="module")
def opened(runs):
    run = _Run(make(), runs / "small", Silent())
    yield run
    run.memo.close()


def answers_of_attach(run, engine, config, budget):
    """Answer one sample at a time, as a user would."""
    found = []
    backbone = run.backbone
    with attach(backbone.model, backbone.processor, config):
        for sample in engine.samples:
            prompt = backbone.chat_prompt(sample.prompt)
            inputs = backbone.processor(
                images=sample.load_image(), text=prompt, return_tensors="pt"
            )
            output = backbone.model.generate(
                **inputs, budget=budget, max_new_tokens=3, do_sample=False
            )
            new = output[0, inputs["input_ids"].shape[1] :]
            found.append(backbone.tokenizer.decode(new, skip_special_tokens=True).strip())
    return found


def test_the_exported_config_scores_what_the_report_says(runs, opened, found):
    config = PruningConfig.from_pretrained(runs / "small" / "config")
    engine = opened._engine("report")
    for chosen in found.chosen:
        name = "adaptive" if chosen.alpha == "adaptive" else "tuned"
        row = next(r for r in found.report if (r.name, r.budget) == (name, chosen.budget))
        answers = answers_of_attach(opened, engine, config, chosen.budget)
        scores = [
            opened.task.score(answer, sample)
            for answer, sample in zip(answers, engine.samples, strict=True)
        ]
        assert row.score.mean == pytest.approx(np.mean(scores))


def made_up_predictor(features, budget):
    """A predictor that gives different prompts different alphas."""
    rng = np.random.default_rng(0)
    width, grid = features.shape[1], np.array([0.0, 0.5, 1.0, 4.0])
    regressor = Linear(np.zeros((0, 2), np.int64), rng.normal(size=(width, 4)), np.zeros(4))
    return AlphaPredictor(
        feature_names=tuple(FEATURE_NAMES),
        center=features.mean(axis=0),
        scale=features.std(axis=0) + 0.1,
        low=features.min(axis=0),
        high=features.max(axis=0),
        alphas=grid,
        models=(BudgetModel(budget, np.zeros(4), 1.0, regressor),),
    )


def test_adaptive_alpha_keeps_what_attach_keeps(opened):
    engine = opened._engine("report")
    budget = 11
    predictor = made_up_predictor(engine.features(), budget)
    entry = {"budget": budget, "alpha": "adaptive", "seed_strategy": "cls_attention"}
    config = PruningConfig.from_dict(
        {"budgets": [entry], "default_budget": budget}, predictor=predictor
    )
    alphas = predictor.alphas_for(engine.features(), budget)
    assert len(set(alphas.tolist())) > 1
    kept = adaptive_kept(engine, Setting(0.0, "cls_attention"), alphas, budget)
    backbone = opened.backbone
    with attach(backbone.model, backbone.processor, config) as attached:
        for i, sample in enumerate(engine.samples):
            prompt = backbone.chat_prompt(sample.prompt)
            inputs = backbone.processor(
                images=sample.load_image(), text=prompt, return_tensors="pt"
            )
            backbone.model.generate(**inputs, max_new_tokens=1, do_sample=False)
            record = attached.last
            assert record.alphas[0] == pytest.approx(alphas[i])
            assert record.kept[0].tolist() == kept.indices[i].tolist()


def test_random_scores_are_the_mean_of_draws(opened):
    engine = opened._engine("report")
    scores = random_scores(engine, 6, 0)
    draws = [engine.outcomes([engine.random(6, seed)])[0] for seed in (0, 1)]
    assert np.allclose(scores, np.mean(draws, axis=0))


def test_intervals_by_group_partition_the_samples():
    intervals = Intervals(["a", "a", "b", "c"], ["x", "y", "x", "y"], seed=0, resamples=100)
    by_group = intervals.by_group(np.array([1.0, 0.0, 0.5, 1.0]))
    assert {name: value.mean for name, value in by_group.items()} == {"x": 0.75, "y": 0.5}
