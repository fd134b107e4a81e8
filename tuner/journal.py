"""The journal of a run folder: one process at a time, and mended when its tail was torn."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from resprune.errors import StudyError


class HeldLock:
    """A lock that is always free, for ``only_one`` holds the whole run folder.

    Optuna's own locks leave files behind, or fail, when an interruption falls into them.
    """

    def acquire(self) -> bool:
        """Take it."""
        return True

    def release(self) -> None:
        """Give it back."""


def mend_journal(path: Path) -> None:
    """Drop a torn last line, which a kill can leave; refuse a journal damaged elsewhere.

    Args:
        path: The journal; it may not exist yet.

    Raises:
        StudyError: A line that is not the last is damaged; the message says how to go on.
    """
    if not path.is_file():
        return
    raw = path.read_bytes()
    good = 0
    lines = raw.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not _whole(line):
            if number < len(lines):
                raise StudyError(
                    f"{path}: damaged at line {number} of {len(lines)}; restore it from a copy, "
                    "or move it away to start again (outcomes already computed are kept)"
                )
            warnings.warn(
                f"{path}: the last line was torn by an interruption and is dropped; its step is "
                "repeated",
                stacklevel=2,
            )
            os.truncate(path, good)
            return
        good += len(line)


def _whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


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
