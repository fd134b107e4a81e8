"""The search: dealt evenly, seeded, resumable to the digit, mended when torn."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from resprune.errors import StudyError
from resprune.setting import Setting, paper_default
from tuner.search.sampler import DealtSampler
from tuner.search.space import Space
from tuner.search.storage import JOURNAL_FILE, journal, only_one
from tuner.search.trials import Search
from tuner.study import study_from_dict

BUDGETS = (22, 11, 6)


def study(objective="pareto", **search):
    return study_from_dict(
        {
            "study": {"name": "s", "seed": 3, "objective": objective},
            "backbone": {"model": "nano-llava"},
            "task": {
                "name": "nano-scenes",
                "tune": {"split": "tune", "samples": 1},
                "report": {"split": "report", "samples": 1},
            },
            "search": {"budget": list(BUDGETS), **search},
        }
    )


def search_of(run_dir, config=None, seed=3):
    config = config or study()
    spaces = [Space(config.search, name, config.budgets()) for name in config.search.method]
    first = {"resprune": [paper_default("llava", budget) for budget in config.budgets()]}
    return Search("s", spaces, config.study.objective, seed, run_dir, first)


def score(setting):
    """A made-up law: best near alpha 1, more tokens are better."""
    alpha = setting.option("alpha")
    bonus = 0.02 if setting.option("seed_strategy") == "l2_norm" else 0.0
    loss = 0.1 * (alpha - 1) ** 2 if alpha is not None else 0.0
    return setting.budget.count**0.3 / 4 - loss + bonus


def evaluate(setting):
    return score(setting), setting.budget.count, float(setting.budget.count)


def run(search, total=24, evaluate=evaluate, floor=None):
    search.run(total, evaluate, floor, lambda *_: None)
    return search


def found(search):
    return [(t.number, t.setting, t.tokens, t.score) for t in search.trials()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return found(run(search_of(tmp_path_factory.mktemp("whole"))))


def test_the_papers_default_comes_first_at_every_budget(uninterrupted):
    assert [setting for _, setting, _, _ in uninterrupted[:3]] == [
        paper_default("llava", budget) for budget in BUDGETS
    ]


def test_budgets_are_dealt_evenly(uninterrupted):
    assert Counter(tokens for _, _, tokens, _ in uninterrupted) == dict.fromkeys(BUDGETS, 8)


def test_trials_look_around_and_repeat_nothing(uninterrupted):
    settings = [setting for _, setting, _, _ in uninterrupted]
    assert len(set(settings)) == len(settings) == 24
    assert len({setting.option("alpha") for setting in settings}) > 10


def test_options_are_drawn_for_the_budget_that_was_dealt():
    """The joint model's draws are taken whole: what it draws for another budget is passed over."""

    class Joint:
        def __init__(self, budgets):
            self.draws = [{"budget": b, "alpha": float(i)} for i, b in enumerate(budgets)]

        def sample_relative(self, *_):
            return self.draws.pop(0)

    sampler = DealtSampler([0], 6)
    sampler._tpe = Joint([22, 11, 6, 6])
    assert sampler.sample_relative(None, None, {}) == {"budget": 6, "alpha": 2.0}
    sampler._tpe = Joint([22] * 100)
    assert sampler.sample_relative(None, None, {})["budget"] == 6
    sampler._tpe = Joint([])
    sampler._tpe.draws = [{}]  # in the start-up trials
    assert sampler.sample_relative(None, None, {}) == {}


@pytest.mark.parametrize("stops", [[5], [0, 1, 14, 20]])
def test_an_interrupted_study_goes_through_the_same_trials(tmp_path, uninterrupted, stops):
    """An interruption in the middle of a trial, with a new process (a new Search) after it."""
    for stop in [*stops, None]:
        search = search_of(tmp_path)

        def stopping(setting, search=search, stop=stop):
            if len(search.trials()) == stop:
                raise KeyboardInterrupt
            return evaluate(setting)

        if stop is None:
            run(search, evaluate=stopping)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(search, evaluate=stopping)
            assert len(search.trials()) == stop
    assert found(search) == uninterrupted


def test_a_killed_process_changes_nothing(tmp_path, uninterrupted):
    """kill -9 in the middle of a start-up trial, of an enqueued one, and of a modelled one."""
    code = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_trials import evaluate, run, search_of
        search, stop = search_of(Path(sys.argv[1])), int(sys.argv[2])
        def killed(setting):
            if len(search.trials()) == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            return evaluate(setting)
        run(search, evaluate=killed)
        """
    )
    for stop in (1, 6, 17):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(stop)], check=False)
        assert done.returncode == -signal.SIGKILL
    assert found(run(search_of(tmp_path))) == uninterrupted


@pytest.mark.parametrize("torn", [1, 30, 200])
def test_a_torn_journal_goes_through_the_same_trials(tmp_path, uninterrupted, torn):
    run(search_of(tmp_path), total=15)
    path = tmp_path / JOURNAL_FILE
    raw = path.read_bytes()[:-torn]
    path.write_bytes(raw[:-1] if raw.endswith(b"\n") else raw)
    with pytest.warns(UserWarning, match=r"study\.journal: the last line was torn"):
        search = search_of(tmp_path)
    assert found(run(search)) == uninterrupted


def test_a_finished_study_runs_nothing_more_and_can_be_extended(tmp_path, uninterrupted):
    run(search_of(tmp_path), total=20)
    run(search_of(tmp_path), total=20, evaluate=lambda _: pytest.fail("a trial was repeated"))
    assert found(run(search_of(tmp_path))) == uninterrupted


def test_a_small_space_is_tried_whole_before_anything_is_tried_again(tmp_path):
    config = study(alpha=[0.0, 2.0], seed_strategy=["l2_norm"])
    search = run(search_of(tmp_path, config), total=10)
    settings = [trial.setting for trial in search.trials()]
    assert len(settings) == 10
    assert len(set(settings[:6])) == len(set(settings)) == 6  # two alphas at three budgets


def test_every_method_gets_the_same_trials_as_alone(tmp_path, uninterrupted):
    config = study(method=["resprune", "divprune", "scope"])
    search = run(search_of(tmp_path / "three", _made(tmp_path / "three", config)))
    by_method = Counter(trial.setting.method for trial in search.trials())
    assert by_method == {"resprune": 24, "divprune": 24, "scope": 24}
    with journal(tmp_path / "three") as storage:
        names = {study.study_name for study in storage.get_all_studies()}
    assert names == {"s.resprune", "s.divprune", "s.scope"}
    own = [row for row in found(search) if row[1].method == "resprune"]
    assert own == uninterrupted
    scope = {t.setting.option("exponent") for t in search.trials() if t.setting.method == "scope"}
    assert len(scope) > 5


def _made(folder, config):
    folder.mkdir()
    return config


def test_another_seed_gives_other_trials(tmp_path, uninterrupted):
    assert found(run(search_of(tmp_path, seed=4))) != uninterrupted


def test_a_journal_damaged_in_the_middle_is_refused(tmp_path):
    run(search_of(tmp_path), total=3)
    path = tmp_path / JOURNAL_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"{torn\n", *lines[4:]]))
    before = path.read_bytes()
    with pytest.raises(StudyError, match=r"study\.journal: damaged at line 5; .*move it away"):
        search_of(tmp_path)
    assert path.read_bytes() == before


def test_something_else_in_place_of_a_journal_is_refused(tmp_path):
    (tmp_path / JOURNAL_FILE).write_text(json.dumps({"hello": 1}) + "\n")
    with pytest.raises(StudyError, match="not a journal that can be resumed"):
        search_of(tmp_path)


def test_a_journal_of_an_older_version_is_refused(tmp_path):
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL_FILE)))
    old = optuna.create_study(study_name="s", storage=storage, directions=["maximize", "minimize"])
    old.optimize(lambda trial: (trial.suggest_float("alpha", 0, 4), 22.0), n_trials=1)
    with pytest.raises(StudyError, match="older version; move the run folder away"):
        search_of(tmp_path)


def test_quality_floor_sets_a_constraint(tmp_path):
    config = study({"kind": "quality-floor", "keep": 0.9})
    search = run(search_of(tmp_path, config), floor=0.45)
    own = search._searches["resprune"]._study
    for trial in (t for t in own.get_trials() if t.state.name == "COMPLETE"):
        expected = 0.45 - trial.user_attrs["score"]
        assert trial.constraints == {"quality-floor": pytest.approx(expected)}
        assert trial.values == [trial.user_attrs["tokens"]]


def test_what_a_trial_costs_and_not_what_it_keeps_is_told(tmp_path):
    search = search_of(tmp_path, study(alpha=[0.5]))
    run(search, total=3, evaluate=lambda s: (0.5, s.budget.count, 4.0 * s.budget.count))
    assert [(t.tokens, t.cost) for t in search.trials()] == [(n, 4.0 * n) for n in BUDGETS]
    trials = search._searches["resprune"]._study.get_trials()
    assert [t.values for t in trials] == [[0.5, 4.0 * n] for n in BUDGETS]


def test_a_default_outside_the_space_is_not_tried(tmp_path):
    search = run(search_of(tmp_path, study(alpha=[0.0, 2.0])), total=4)
    assert {t.setting.option("alpha") for t in search.trials()} <= {0.0, 2.0}


def test_a_fixed_budget_is_no_parameter(tmp_path):
    config = study({"kind": "fixed-budget", "budget": 11}, positions=["keep", "compact"])
    search = run(search_of(tmp_path, config), total=5)
    assert {t.tokens for t in search.trials()} == {11}
    assert search.trials()[0].setting == paper_default("llava", 11)
    own = search._searches["resprune"]._study.get_trials()[0]
    assert set(own.params) == {"alpha", "seed_strategy", "positions"}


def test_importances_find_the_parameter_that_matters(tmp_path):
    search = run(
        search_of(tmp_path),
        total=40,
        evaluate=lambda s: (-((s.option("alpha") - 1) ** 2), s.budget.count, s.budget.count),
    )
    importances = search.importances()["resprune"]
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


def test_params_and_settings_are_each_others_inverse(tmp_path):
    config = study(pooling=["max", "mean"], positions=["keep", "compact"])
    space = Space(config.search, "resprune", config.budgets())
    setting = Setting.of(
        "resprune", 11, positions="compact", alpha=1.15, seed_strategy="l2_norm", pooling="mean"
    )
    assert space.setting(space.params(setting)) == setting
    assert space.params(setting.with_options(alpha=9.0)) is None
