"""Outcomes: what one sample gave with one plan, remembered in the run folder (sqlite)."""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from resprune.errors import StudyError
from resprune.files import publish

_AT_ONCE = 500  # keys of one query


class Outcome(NamedTuple):
    """What one sample gave with one plan.

    Attributes:
        answer: The greedily decoded answer, or None when only the likelihood was asked for.
        likelihood: Log-likelihood of the gold answer in nats (beside an answer: of its first
            token), or None without a gold answer.
    """

    answer: str | None
    likelihood: float | None


class Outcomes:
    """Outcomes by key, on disk after every batch.

    One process writes: the one that holds the run folder. A key names everything that decides an
    outcome, the model too, so a file serves whatever is asked of it.

    Args:
        path: An sqlite file; a damaged one is set aside with a warning, since all can be computed
            again.

    Raises:
        StudyError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[bytes, Outcome] = {}
        self.hits = 0
        """Outcomes that were asked for again."""
        try:
            self._file = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise self._unwritable(error) from error
            aside = path.with_name(f"{path.name}.damaged")
            publish(path, aside)
            problem = " ".join(str(error).split())
            warnings.warn(
                f"{path}: damaged ({problem}); set aside as {aside.name}, its outcomes are "
                "computed again",
                stacklevel=3,
            )
            self._file = self._open()
        self.resumed = self._file.execute("SELECT 1 FROM outcomes LIMIT 1").fetchone() is not None
        """Whether it held outcomes of an earlier run."""

    def find(self, keys: Sequence[bytes]) -> None:
        """Bring known outcomes into memory."""
        unknown = [key for key in dict.fromkeys(keys) if key not in self._known]
        with self._readable():
            for start in range(0, len(unknown), _AT_ONCE):
                part = unknown[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                rows = self._file.execute(
                    f"SELECT key, answer, likelihood FROM outcomes WHERE key IN ({marks})", part
                )
                self._known |= {key: Outcome(*value) for key, *value in rows}

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def __getitem__(self, key: bytes) -> Outcome:
        return self._known[key]

    def put(self, outcomes: Mapping[bytes, Outcome]) -> None:
        """Remember outcomes, on disk too, in one transaction."""
        self._known |= outcomes
        with self._readable(), self._file:
            self._file.executemany(
                "INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?)",
                [(key, *value) for key, value in outcomes.items()],
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path)
        try:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = NORMAL")
            file.execute(
                "CREATE TABLE IF NOT EXISTS outcomes"
                " (key BLOB PRIMARY KEY, answer TEXT, likelihood REAL) WITHOUT ROWID"
            )
            problem = file.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
        except sqlite3.Error:
            file.close()  # before its file is set aside
            raise
        return file

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: sqlite3.Error) -> StudyError:
        return StudyError(
            f"{self._path}: cannot be read or written ({error}); free space, change its "
            "permissions, or choose another folder with --runs"
        )
