"""The search: seeded, resumable, mended when torn."""

import json

import pytest
from tuner.journal import mend_journal, only_one
from tuner.objective import JOURNAL_FILE, Scored, Search

from resprune.errors import StudyError
from tuner.study import study_from_dict

COUNTS = {22: 22, 11: 11, 6: 6}


def study(objective="pareto", trials=24, **search):
    return study_from_dict(
        {
            "study": {"name": "s", "seed": 3, "trials": trials, "objective": objective},
            "backbone": {"model": "nano-llava"},
            "task": {
                "name": "nano-scenes",
                "tune": {"split": "tune", "samples": 1},
                "report": {"split": "report", "samples": 1},
            },
            "search": {"budget": list(COUNTS), **search},
            "alpha": {"adaptive": False},
        }
    )


def score(setting, budget):
    """A made-up law: best near alpha 1, more tokens are better."""
    bonus = 0.02 if setting.seed_strategy == "l2_norm" else 0.0
    return budget**0.3 / 4 - 0.1 * (setting.alpha - 1) ** 2 + bonus


def evaluate(setting, budget):
    return Scored(score(setting, budget))


def found(search):
    return [(t.number, t.params, t.budget, t.score) for t in search.trials()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    search = Search(study(), COUNTS, "llava", tmp_path_factory.mktemp("whole"))
    search.run(evaluate)
    return found(search)


def test_the_papers_default_comes_first_at_every_budget(uninterrupted):
    head = [params for _, params, _, _ in uninterrupted[:3]]
    assert [params["budget"] for params in head] == [22, 11, 6]
    assert {(params["alpha"], params["seed_strategy"]) for params in head} == {
        (0.75, "cls_attention")
    }


def test_trials_look_around(uninterrupted):
    assert len(uninterrupted) == 24
    assert len({params["alpha"] for _, params, _, _ in uninterrupted}) > 10
    assert {params["budget"] for _, params, _, _ in uninterrupted} == set(COUNTS)


@pytest.mark.parametrize("stops", [[5], [0, 1, 14, 20]])
def test_an_interrupted_study_goes_through_the_same_trials(tmp_path, uninterrupted, stops):
    """An interruption in the middle of a trial, with a new process (a new Search) after it."""
    for stop in [*stops, None]:
        search = Search(study(), COUNTS, "llava", tmp_path)

        def stopping(setting, budget, search=search, stop=stop):
            if search.finished == stop:
                raise KeyboardInterrupt
            return evaluate(setting, budget)

        if stop is None:
            search.run(stopping)
        else:
            with pytest.raises(KeyboardInterrupt):
                search.run(stopping)
            assert search.finished == stop
    assert found(search) == uninterrupted


@pytest.mark.parametrize("torn", [1, 30, 200])
def test_a_torn_journal_goes_through_the_same_trials(tmp_path, uninterrupted, torn):
    search = Search(study(), COUNTS, "llava", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        search.run(lambda *a: evaluate(*a) if search.finished < 15 else interrupt())
    path = tmp_path / JOURNAL_FILE
    raw = path.read_bytes()
    path.write_bytes(raw[:-torn])
    whole = raw[:-torn].endswith(b"\n")
    if whole:
        path.write_bytes(raw[: -torn - 1])
    with pytest.warns(UserWarning, match=r"study\.journal: the last line was torn"):
        search = Search(study(), COUNTS, "llava", tmp_path)
    search.run(evaluate)
    assert found(search) == uninterrupted


def interrupt():
    raise KeyboardInterrupt


def test_a_finished_study_runs_nothing_more_and_can_be_extended(tmp_path, uninterrupted):
    Search(study(trials=20), COUNTS, "llava", tmp_path).run(evaluate)
    search = Search(study(trials=20), COUNTS, "llava", tmp_path)
    search.run(lambda *_: pytest.fail("a trial was repeated"))
    search = Search(study(trials=24), COUNTS, "llava", tmp_path)
    search.run(evaluate)
    assert found(search) == uninterrupted


def test_no_setting_is_tried_twice_and_a_small_space_ends(tmp_path, uninterrupted):
    assert len({tuple(sorted(params.items())) for _, params, _, _ in uninterrupted}) == 24
    config = study("pareto", trials=24, alpha=[0.0, 2.0], seed_strategy=["l2_norm"])
    search = Search(config, COUNTS, "llava", tmp_path)
    search.run(evaluate)
    assert search.finished == 6  # two alphas at three budgets


def test_another_seed_gives_other_trials(tmp_path, uninterrupted):
    other = study_from_dict(
        {**study().model_dump(), "study": {**study().study.model_dump(), "seed": 4}}
    )
    search = Search(other, COUNTS, "llava", tmp_path)
    search.run(evaluate)
    assert [p for _, p, _, _ in found(search)] != [p for _, p, _, _ in uninterrupted]


def test_a_journal_damaged_in_the_middle_is_refused(tmp_path):
    Search(study(trials=3), COUNTS, "llava", tmp_path).run(evaluate)
    path = tmp_path / JOURNAL_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"{torn\n", *lines[4:]]))
    before = path.read_bytes()
    with pytest.raises(StudyError, match=r"study\.journal: damaged at line 5 of .*move it away"):
        Search(study(), COUNTS, "llava", tmp_path)
    assert path.read_bytes() == before


def test_something_else_in_place_of_a_journal_is_refused(tmp_path):
    (tmp_path / JOURNAL_FILE).write_text(json.dumps({"hello": 1}) + "\n")
    with pytest.raises(StudyError, match="not a journal that can be resumed"):
        Search(study(), COUNTS, "llava", tmp_path)


def test_a_missing_journal_needs_no_mending(tmp_path):
    mend_journal(tmp_path / JOURNAL_FILE)
    assert list(tmp_path.iterdir()) == []


def test_quality_floor_sets_a_constraint(tmp_path):
    floor = score_at = 0.45
    config = study({"kind": "quality-floor", "keep": 0.9})
    search = Search(config, COUNTS, "llava", tmp_path)
    search.run(lambda setting, budget: Scored(score(setting, budget), floor))
    frozen = search._study.get_trials()
    for trial in frozen:
        expected = score_at - trial.user_attrs["score"]
        assert trial.constraints == {"quality-floor": pytest.approx(expected)}
        assert trial.values == [trial.user_attrs["budget"]]
    assert {t.number for t in search._study.best_trials} <= {
        t.number for t in frozen if t.constraints["quality-floor"] <= 0
    }


def test_a_default_outside_the_space_is_not_tried(tmp_path):
    config = study("pareto", trials=4, alpha=[0.0, 2.0])
    search = Search(config, COUNTS, "llava", tmp_path)
    search.run(evaluate)
    assert {t.params["alpha"] for t in search.trials()} <= {0.0, 2.0}


def test_a_fixed_budget_is_no_parameter(tmp_path):
    config = study({"kind": "fixed-budget", "budget": 11}, trials=5, positions=["keep", "compact"])
    search = Search(config, {11: 11}, "llava", tmp_path)
    search.run(evaluate)
    trials = search.trials()
    assert {t.budget for t in trials} == {11}
    assert set(trials[0].params) == {"alpha", "seed_strategy", "positions"}
    setting, budget = search.setting(trials[0].params)
    assert (setting.alpha, setting.positions, budget) == (0.75, "keep", 11)


def test_importances_find_the_parameter_that_matters(tmp_path):
    search = Search(study(trials=40), COUNTS, "llava", tmp_path)
    search.run(lambda setting, budget: Scored(-((setting.alpha - 1) ** 2) + 0 * budget))
    importances = search.importances()
    assert max(importances, key=importances.get) == "alpha"
    assert sum(importances.values()) == pytest.approx(1.0)


def test_one_process_a_run_folder(tmp_path):
    with (
        only_one(tmp_path / "r"),
        pytest.raises(StudyError, match="another process is running"),
        only_one(tmp_path / "r"),
    ):
        pass
    with only_one(tmp_path / "r"):
        pass


def test_an_unwritable_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StudyError, match=r"file/r: cannot be written .*--runs"),
        only_one(tmp_path / "file" / "r"),
    ):
        pass
