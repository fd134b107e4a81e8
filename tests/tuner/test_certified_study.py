"""A study that claims something: what is tested, in which order, and what comes of it."""

import json
import shutil

import numpy as np
import pytest

from resprune import PruningConfig
from resprune.certificate import Certificate
from resprune.config import CONFIG_FILE
from resprune.errors import ConfigError, StudyError
from resprune.setting import unpruned
from tuner import certificate
from tuner.results.schema import Results
from tuner.run import run_study
from tuner.scoring.split import Split
from tuner.stages.opened import OpenedStudy
from tuner.study import study_from_dict


def make(loss=0.5, samples=60, per_image=1, trials=4, **changes):
    data = {
        "study": {
            "name": "claims",
            "trials": trials,
            "objective": {"kind": "certified", "loss": loss},
        },
        "backbone": {"model": "nano-llava", "family": "llava", "device": "cpu"},
        "task": {
            "name": "nano-scenes",
            "tune": {"split": "tune", "samples": 24, "questions_per_image": 1},
            "certify": {
                "split": "certify",
                "samples": samples,
                "questions_per_image": per_image,
            },
            "report": {"split": "report", "samples": 24, "questions_per_image": 1},
        },
        "search": {"budget": [64, 22, 2]},
        "report": {"examples": 0},
    }
    for section, values in changes.items():
        data[section] = {**data.get(section, {}), **values}
    return study_from_dict(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified")
    run_study(make(), folder)
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def found(runs):
    return Results.load(runs / "claims")


@pytest.fixture(scope="module")
def counted(runs, found):
    """Scores on the certify split by tokens, from the settings that are exported."""
    with OpenedStudy(make(), runs / "claims") as opened:
        split = opened.split("certify")
        scores = {c.tokens: split.score(c.setting) for c in found.chosen}
        return split.score(unpruned()), scores


def test_the_certificate_says_what_the_exported_policies_do(found, counted):
    whole, scores = counted
    assert found.certificate.test == "exact"
    assert found.certificate.split.images == found.certificate.split.samples == 60
    for tested in found.certificate.order:
        if tested.p_value is None:
            continue
        kept = scores[tested.tokens]
        assert tested.worse == int(((whole == 1) & (kept == 0)).sum())
        assert tested.better == int(((whole == 0) & (kept == 1)).sum())
        assert tested.loss == pytest.approx(float((whole - kept).mean()))
        expected = certificate.exact_p_value(tested.worse, tested.better, 60, 0.5)
        assert tested.p_value == pytest.approx(expected)
    certificate.check(found.certificate)


def test_the_fewest_certified_tokens_are_recommended(found):
    passed = found.certificate.certified
    assert passed, "a loss of half the score is no loss at 64 tokens"
    assert found.recommended.count == min(t.tokens for t in passed)
    assert len(passed) < 3, "two tokens of 196 lose more than half, or the test tests nothing"


def test_the_order_is_that_of_the_tune_split(runs, found):
    claim = found.certificate.claim
    with OpenedStudy(make(), runs / "claims") as opened:
        tune = opened.split("tune")
        whole = tune.score(unpruned())
        promise = {}
        for chosen in found.chosen:
            lost = whole - tune.score(chosen.setting)
            error = np.sqrt(np.sum((lost - lost.mean()) ** 2) * 24 / 23 + 2) / 24
            promise[chosen.tokens] = (claim.loss - lost.mean()) / error
    wanted = sorted(promise, key=lambda tokens: (promise[tokens], tokens), reverse=True)
    assert [t.tokens for t in found.certificate.order] == wanted


def test_nothing_is_scored_after_the_first_failure(tmp_path, monkeypatch):
    asked = []
    real = Split.scores

    def watched(self, settings):
        if self.name == "certify":
            asked.extend(setting.budget for setting in settings)
        return real(self, settings)

    monkeypatch.setattr(Split, "scores", watched)
    results = run_study(make(loss=0.05, trials=3), tmp_path)
    tested = [t for t in results.certificate.order if t.p_value is not None]
    assert asked == [unpruned().budget, *(t.budget for t in tested)]
    failed = [t for t in tested if not t.certified]
    assert failed == tested[-1:]
    assert [t.p_value for t in results.certificate.order[len(tested) :]] == [None] * (
        3 - len(tested)
    )


def test_where_nothing_passes_all_tokens_are_recommended_and_kept(tmp_path):
    results = run_study(make(loss=0.001, samples=20, trials=1, search={"budget": [2]}), tmp_path)
    assert results.certificate.certified == ()
    assert results.recommended == unpruned().budget
    config = PruningConfig.from_pretrained(tmp_path / "claims" / "config")
    assert config.policy() == unpruned()
    assert config.policy(2).budget.count == 2
    for name in ("config/README.md", "report.html"):
        text = (tmp_path / "claims" / name).read_text()
        assert "Keep all visual tokens: no budget of this study was certified" in text
        assert "No budget could be certified" in text


def test_config_and_card_carry_the_certificate(runs, found):
    folder = runs / "claims" / "config"
    assert PruningConfig.from_pretrained(folder).certificate == found.certificate
    card = (folder / "README.md").read_text()
    assert "Certified with 95 % confidence" in card
    assert "attempt 1 of this study" in card


def edited(folder, tmp_path, change):
    shutil.copytree(folder, tmp_path / "edited")
    path = tmp_path / "edited" / CONFIG_FILE
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return tmp_path / "edited"


def test_a_changed_number_is_refused(runs, tmp_path):
    def change(data):
        data["certificate"]["order"][0]["worse"] += 1

    with pytest.raises(ConfigError, match="does not match the certificate's numbers"):
        PruningConfig.from_pretrained(edited(runs / "claims" / "config", tmp_path, change))


def test_another_policy_under_the_certificate_is_refused(runs, tmp_path):
    def change(data):
        data["table"][0]["options"]["alpha"] = 3.9

    with pytest.raises(ConfigError, match="is not the one that was certified"):
        PruningConfig.from_pretrained(edited(runs / "claims" / "config", tmp_path, change))


def test_other_choices_need_images_not_seen_yet(copied, monkeypatch):
    def last(candidates):
        return min(candidates, key=lambda candidate: float(candidate.scores.mean()))

    monkeypatch.setattr("tuner.run.choose_setting", last)
    with pytest.raises(StudyError, match=r"certify.*--certify-offset 60"):
        run_study(make(), copied)
    task = make().task.model_dump(mode="json", exclude_none=True)
    task["certify"]["offset"] = 60
    with pytest.raises(StudyError, match=r"report.*--report-offset 24"):
        run_study(make(task=task), copied)
    task["report"]["offset"] = 24
    again = run_study(make(task=task), copied)
    assert again.certificate.attempt == 2
    assert again.report_openings == 2
    assert "opened 2 times" in (copied / "claims" / "report.html").read_text()
    assert "opened 2 times" in (copied / "claims" / "config" / "README.md").read_text()


def test_running_again_is_the_same_attempt(copied, found):
    again = run_study(make(), copied)
    assert again.certificate == found.certificate
    assert (again.report_openings, again.cost.prefills) == (1, 0)


def test_several_questions_an_image_are_tested_by_betting(tmp_path):
    results = run_study(make(samples=120, per_image=4, trials=3), tmp_path)
    certified = results.certificate
    assert certified.test == "betting"
    assert (certified.split.images, certified.split.questions_per_image) == (30, 4)
    first = certified.order[0]
    assert len(first.margins) == 30
    assert first.loss == pytest.approx(0.5 + sum(first.margins) / 120)
    assert isinstance(certified, Certificate)
    certificate.check(certified)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": {"name": "x", "objective": {"kind": "certified", "loss": 1.0}}}, "loss"),
        (
            {"study": {"name": "x", "objective": {"kind": "certified", "confidence": 1.0}}},
            "confidence",
        ),
        (
            {"study": {"name": "x", "objective": {"kind": "certified", "clip": -6.0}}},
            "clip: score lies from 0 to 1",
        ),
    ],
)
def test_a_claim_out_of_range_is_refused(changes, message):
    with pytest.raises(StudyError, match=message):
        make(**changes)


def test_a_claim_without_a_split_is_refused():
    data = make().model_dump(mode="json", exclude_none=True)
    del data["task"]["certify"]
    with pytest.raises(StudyError, match=r"task\.certify is missing"):
        study_from_dict(data)


def test_nats_need_a_clip():
    task = make().task.model_dump(mode="json", exclude_none=True)
    with pytest.raises(StudyError, match=r"objective\.clip is missing"):
        make(task={**task, "metric": "log_likelihood"})


def test_what_no_outcome_could_prove_is_refused_before_anything_runs(tmp_path):
    task = make().task.model_dump(mode="json", exclude_none=True)
    study = make(loss=0.02, samples=148, task={**task, "metric": "fidelity"})
    task = study.task.model_dump(mode="json", exclude_none=True)
    task["certify"]["samples"] = 148
    study = make(loss=0.02, task=task)
    with pytest.raises(StudyError, match="at least 149 images"):
        run_study(study, tmp_path)
    assert not (tmp_path / "claims" / "study.journal").exists()


def test_exact_says_which_test_fits(tmp_path):
    objective = {"kind": "certified", "loss": 0.5, "test": "exact"}
    study = make(samples=40, per_image=2, study={"name": "claims", "objective": objective})
    with pytest.raises(StudyError, match="betting"):
        run_study(study, tmp_path)


def test_too_few_images_for_a_policy_that_mends_nothing_are_warned_of(tmp_path):
    study = make(loss=0.02, trials=1, search={"budget": [64]})
    with pytest.warns(UserWarning, match="give 149 or more"):
        run_study(study, tmp_path)


def test_a_divergence_is_certified_where_it_is_cut_off(tmp_path):
    """No labels, no gain possible: what is tested is minus the recorded KL, in nats."""
    objective = {"kind": "certified", "loss": 0.5, "clip": -2.0}
    data = make(search={"budget": [98, 2]}).model_dump(mode="json", exclude_none=True)
    data["task"]["metric"] = "kl"
    with pytest.raises(StudyError, match=r"study\.objective\.clip is missing: kl"):
        study_from_dict(data)
    data["study"]["objective"] = objective
    results = run_study(study_from_dict(data), tmp_path)
    assert (results.certificate.metric, results.certificate.test) == ("kl", "betting")
    assert results.certificate.clip == -2.0
    wide = results.certificate.order[0]
    assert wide in results.certificate.certified
    (row,) = [r for r in results.report if r.kind == "tuned" and r.tokens == 98]
    (few,) = [r for r in results.report if r.kind == "tuned" and r.tokens == 2]
    assert few.score.mean < row.score.mean <= 0
    assert any("KL divergence" in note for note in results.notes)
    certificate.check(results.certificate)  # follows from its own numbers
