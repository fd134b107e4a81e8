"""Writing beside and renaming: who reads finds the old file or the new one, never half of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_beside(path: Path, *, swap: bool = False) -> Iterator[Path]:
    """Give a place to write a file or a folder to, which gets its name when the block ends.

    The place lies in the same folder, under a name with this process's id. Where the block
    raises, ``path`` stays as it was; either way nothing is left beside it.

    Args:
        path: The file's or folder's own name.
        swap: As for ``publish``.

    Yields:
        The place, where nothing is yet.

    Raises:
        OSError: It cannot be written or renamed.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    _remove(beside)  # of a process that was killed and had the same id
    try:
        yield beside
        publish(beside, path, swap=swap)
    finally:
        _remove(beside)


def publish(beside: Path, path: Path, *, swap: bool = False) -> None:
    """Give what is finished its name, in place of an earlier file or empty folder.

    Args:
        beside: A file or folder on the same file system.
        path: The name.
        swap: Whether a folder takes the place of one that is not empty as well. That one steps
            aside first, since no system call replaces it, and comes back where renaming fails.

    Raises:
        OSError: It cannot be renamed; ``path`` is as it was.
    """
    if not (swap and path.is_dir()):
        os.replace(beside, path)
        return
    old = path.with_name(f"{path.name}.{os.getpid()}.old")
    _remove(old)
    os.replace(path, old)
    try:
        os.replace(beside, path)
    except OSError:
        os.replace(old, path)
        raise
    _remove(old)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file beside its place and rename it.

    Raises:
        OSError: It cannot be written.
    """
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file of bytes beside its place and rename it.

    Raises:
        OSError: It cannot be written.
    """
    with written_beside(path) as beside:
        beside.write_bytes(data)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):  # an error of the write itself says more
        path.unlink()
