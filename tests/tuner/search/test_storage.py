"""The storage of a run folder: mended when torn, refused when damaged, held by one process."""

import json

import optuna
import pytest

from resprune.errors import StudyError
from tuner.search.storage import JOURNAL_FILE, journal, only_one


def add(run_dir, trials):
    """Run trials in the journal; how many it holds then."""
    with journal(run_dir) as storage:
        study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
        return len(study.trials)


@pytest.mark.parametrize("torn", [1, 30, 200])
def test_a_torn_tail_is_dropped_and_said(tmp_path, torn):
    add(tmp_path, 5)
    path = tmp_path / JOURNAL_FILE
    raw = path.read_bytes()[:-torn]
    path.write_bytes(raw.removesuffix(b"\n"))
    with pytest.warns(UserWarning, match=r"study\.journal: the last line was torn"):
        assert add(tmp_path, 0) in (4, 5)
    assert path.read_bytes().endswith(b"\n")
    assert add(tmp_path, 2) in (6, 7)


def test_damage_in_the_middle_is_refused_and_left_alone(tmp_path):
    add(tmp_path, 3)
    path = tmp_path / JOURNAL_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"{torn\n", *lines[4:]]))
    before = path.read_bytes()
    with pytest.raises(StudyError, match=r"study\.journal: damaged at line 5; .*move it away"):
        add(tmp_path, 1)
    assert path.read_bytes() == before


def test_something_else_in_place_of_a_journal_is_refused(tmp_path):
    (tmp_path / JOURNAL_FILE).write_text(json.dumps({"hello": 1}) + "\n")
    with pytest.raises(StudyError, match="not a journal that can be resumed"):
        add(tmp_path, 1)


def test_a_missing_journal_needs_no_mending(tmp_path):
    assert add(tmp_path, 1) == 1


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
