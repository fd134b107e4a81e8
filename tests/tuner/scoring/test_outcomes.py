"""Outcomes in the run folder: what was committed survives anything; damage is set aside."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from resprune.errors import StudyError
from tuner.scoring.outcomes import Outcome, Outcomes

VALUES = {b"a": Outcome("red", -0.5), b"b": Outcome("", None), b"c": Outcome(None, -3.25)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "outcomes.sqlite"


def write(path, values=VALUES):
    outcomes = Outcomes(path)
    outcomes.put(values)
    outcomes.close()


def held(path, keys=VALUES):
    """What a new process finds."""
    outcomes = Outcomes(path)
    outcomes.find(list(keys))
    found = {key: outcomes[key] for key in keys if key in outcomes}
    outcomes.close()
    return found


def test_outcomes_survive(path):
    write(path)
    outcomes = Outcomes(path)
    assert outcomes.resumed
    assert b"a" not in outcomes  # nothing is read before it is asked for
    outcomes.find([*VALUES, b"d"])
    assert {key: outcomes[key] for key in VALUES} == VALUES
    assert b"d" not in outcomes
    outcomes.put({b"d": Outcome("new", None)})
    outcomes.close()
    assert held(path, [*VALUES, b"d"]) == {**VALUES, b"d": Outcome("new", None)}


def test_a_new_file_is_not_resumed(path):
    assert not Outcomes(path).resumed


def test_the_first_outcome_of_a_key_stays(path):
    write(path, {b"a": Outcome("first", None)})
    write(path, {b"a": Outcome("second", None)})
    assert held(path, [b"a"]) == {b"a": Outcome("first", None)}


def test_more_keys_than_one_query_takes(path):
    many = {str(i).encode(): Outcome(str(i), float(i)) for i in range(2345)}
    write(path, many)
    assert held(path, many) == many


WRITER = """
import sys
from pathlib import Path
from tuner.scoring.outcomes import Outcome, Outcomes

outcomes = Outcomes(Path(sys.argv[1]))
for batch in range(10**6):
    outcomes.put({f"{batch}/{i}".encode(): Outcome("x" * 200, float(i)) for i in range(50)})
    print(batch, flush=True)
"""


def test_a_kill_in_mid_write_leaves_every_committed_batch(path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if int(line) >= 40:
            break
    os.kill(process.pid, signal.SIGKILL)
    last = [int(line), *map(int, process.stdout.read().split())][-1]
    process.wait()
    assert last >= 40
    keys = [f"{batch}/{i}".encode() for batch in range(last + 1) for i in range(50)]
    found = held(path, keys)
    assert len(found) == len(keys)
    assert found[b"40/7"] == Outcome("x" * 200, 7.0)
    # a batch that was being written is there whole or not at all
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT count(*) FROM outcomes").fetchone()[0] % 50 == 0
    write(path)
    assert held(path) == VALUES


def damaged(raw, damage):
    if damage == "not a database":
        return b"\0" * 40 + raw[40:]
    if damage == "truncated":
        return raw[: len(raw) // 2]
    page = int.from_bytes(raw[16:18], "big")
    if damage == "schema":
        return raw[:100] + b"\xff" * 60 + raw[160:]
    return raw[:page] + b"\xee" * page + raw[2 * page :]


@pytest.mark.parametrize("damage", ["not a database", "truncated", "schema", "page"])
def test_a_damaged_file_is_set_aside(path, damage):
    many = {str(i).encode(): Outcome("answer", float(i)) for i in range(2000)}
    write(path, many)
    raw = damaged(path.read_bytes(), damage)
    path.write_bytes(raw)
    with pytest.warns(
        UserWarning, match=r"outcomes\.sqlite: damaged .*set aside as outcomes\.sqlite\.damaged"
    ):
        outcomes = Outcomes(path)
    assert not outcomes.resumed
    outcomes.put(VALUES)
    # it is usable beside a second look while it is open, and after it is closed
    assert held(path) == VALUES
    outcomes.close()
    assert held(path) == VALUES
    assert (path.parent / "outcomes.sqlite.damaged").read_bytes()[: len(raw) // 2] == (
        raw[: len(raw) // 2]
    )


def test_the_log_of_a_file_set_aside_is_not_replayed_on_the_new_one(path):
    """Killed, and damaged where the write-ahead log beside it does not mend it."""
    write(path, {str(i).encode(): Outcome("answer", float(i)) for i in range(20_000)})
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if int(line) >= 3:
            break
    process.kill()
    process.communicate()
    assert path.with_name("outcomes.sqlite-wal").stat().st_size
    raw = path.read_bytes()
    path.write_bytes(raw[:4096] + b"\xee" * (len(raw) - 4096))
    with pytest.warns(UserWarning, match="set aside"):
        outcomes = Outcomes(path)
    outcomes.find([b"0/1", b"7"])
    assert b"0/1" not in outcomes
    assert b"7" not in outcomes
    outcomes.put(VALUES)
    assert held(path) == VALUES
    outcomes.close()
    assert held(path) == VALUES


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file/o\.sqlite: cannot be read or written .*--runs"):
        Outcomes(tmp_path / "file" / "o.sqlite")


def test_an_unwritable_file_is_named(path, monkeypatch):
    """The file may be read and not written, as on a read-only disk (root writes anywhere else)."""
    write(path)
    outcomes = Outcomes(path)
    outcomes._file.execute("PRAGMA query_only = ON")
    outcomes.find(list(VALUES))
    with pytest.raises(StudyError, match=r"outcomes\.sqlite: cannot be read or written"):
        outcomes.put({b"d": Outcome("new", None)})
    outcomes.close()
