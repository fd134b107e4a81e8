"""What lies on the disk: run folders with their caches, the hub's cache, and what is offline."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tuner.doctor.schema import Finding, Level
from tuner.scoring.bench import CACHE_FOLDER, OUTCOMES_FILE

LEAST_FREE = 1 << 30
"""Bytes under which a run may well fill the disk."""
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def look_at_storage(runs: Path) -> Iterator[Finding]:
    """Say whether runs can be kept, and what is kept already.

    Args:
        runs: Folder of run folders; need not exist.
    """
    yield _writable(runs)
    yield _free(runs)
    for folder in sorted(runs.iterdir()) if runs.is_dir() else []:
        cache, outcomes = folder / CACHE_FOLDER, folder / OUTCOMES_FILE
        if cache.is_dir() or outcomes.is_file():
            sizes = [size_text(_size(place)) for place in (cache, outcomes)]
            yield _finding(str(folder), "ok", f"visual cache {sizes[0]}, outcomes {sizes[1]}")
    yield _hub()
    yield _offline()


def size_text(size: float) -> str:
    """Write a size: ``1.3 MB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _writable(runs: Path) -> Finding:
    there = _nearest(runs)
    if not there.is_dir():
        text = f"{there} is a file, so no run can be kept here; name a folder with --runs"
        return _finding(str(runs), "problem", text)
    if not os.access(there, os.W_OK | os.X_OK):
        text = f"{there} cannot be written; change its permissions, or name a folder with --runs"
        return _finding(str(runs), "problem", text)
    return _finding(str(runs), "ok", "writable" if runs.is_dir() else "not there yet, can be made")


def _free(runs: Path) -> Finding:
    there = _nearest(runs)
    usage = shutil.disk_usage(there if there.is_dir() else there.parent)
    text = f"{size_text(usage.free)} free of {size_text(usage.total)}"
    if usage.free < LEAST_FREE:
        return _finding("disk", "note", f"{text}; visual caches may fill it")
    return _finding("disk", "ok", text)


def _hub() -> Finding:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    held = size_text(_size(cache)) if cache.is_dir() else "nothing yet"
    home = os.environ.get("HF_HOME")
    said = "HF_HOME is not set" if home is None else f"HF_HOME={home}"
    return _finding("hub cache", "ok", f"{held} in {cache} ({said})")


def _offline() -> Finding:
    flags = [f"{name}={os.environ[name]}" for name in _OFFLINE if os.environ.get(name)]
    if not flags:
        return _finding("offline", "ok", "no flag is set, so models are looked up on the hub")
    text = f"{', '.join(flags)}: nothing is fetched, models must be embedded, folders or cached"
    return _finding("offline", "ok", text)


def _nearest(path: Path) -> Path:
    """The path, or the nearest one above it that exists."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def _size(place: Path) -> int:
    """Bytes of a file, or of a folder's files: links, as the hub's snapshots are, count nothing."""
    files = [place] if place.is_file() else place.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def _finding(name: str, level: Level, text: str) -> Finding:
    return Finding(area="storage", name=name, level=level, text=text)
