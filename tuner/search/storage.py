"""The storage of a run folder: one process at a time, and Optuna's journal in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from resprune.errors import StudyError

JOURNAL_FILE = "study.journal"


class FlockLock:
    """A lock of the journal that the kernel frees when its holder dies.

    Optuna's own locks leave files behind when they are killed, and the next writer waits for them.

    Args:
        path: The journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.lock")
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take it, waiting for another holder."""
        self._file = self._path.open("a")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def journal(run_dir: Path) -> Iterator[Any]:
    """Open the journal of a run folder as an Optuna storage.

    Raises:
        StudyError: It is damaged or cannot be written; the message says how to go on.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    path = run_dir / JOURNAL_FILE
    lock: Any = FlockLock(path)
    try:
        lock.acquire()
        try:
            _cut_torn_tail(path)
        finally:
            lock.release()
        yield optuna.storages.JournalStorage(JournalFileBackend(str(path), lock))
    except OSError as error:
        raise StudyError(f"{path}: cannot be written ({error.strerror})") from error
    except StudyError:
        raise
    except (KeyError, ValueError, AssertionError) as error:
        raise StudyError(
            f"{path}: not a journal that can be resumed ({type(error).__name__}: {error}); "
            "move it away to start again (outcomes already computed are kept)"
        ) from error


def _cut_torn_tail(path: Path) -> None:
    """Drop a last line that a kill tore: the next append would make it unreadable."""
    raw = path.read_bytes() if path.is_file() else b""
    good = raw.rfind(b"\n") + 1
    for number, line in enumerate(raw[:good].splitlines(), 1):
        try:
            json.loads(line)
        except ValueError:
            raise StudyError(
                f"{path}: damaged at line {number}; restore it from a copy, or move it away to "
                "start again (outcomes already computed are kept)"
            ) from None
    if good < len(raw):
        warnings.warn(
            f"{path}: the last line was torn by an interruption and is dropped; its step is "
            "repeated",
            stacklevel=4,
        )
        os.truncate(path, good)


@contextlib.contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Hold a run folder, so that no second process works on it.

    Raises:
        StudyError: Another process holds it, or it cannot be written.
    """
    path = run_dir / ".lock"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise StudyError(
            f"{run_dir}: cannot be written ({error.strerror}); change its permissions or choose "
            "another folder with --runs"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(
                f"{run_dir}: another process is running this study; wait for it to end, or choose "
                "another folder with --runs"
            ) from None
        yield
