"""Embedded models: tiny LVLMs trained from scratch, so that everything runs without a hub.

`python -m studies.nano.train --out DIR` trains them again; `studies/nano/README.md` says how.
"""

from __future__ import annotations

from pathlib import Path

from resprune.errors import ResPruneError, near_names

_WEIGHTS = Path(__file__).parent / "weights"


def model_names() -> list[str]:
    """Return the names of the shipped models."""
    if not _WEIGHTS.is_dir():
        return []
    return sorted(p.parent.name for p in _WEIGHTS.glob("*/config.json"))


def model_dir(name: str = "nano-llava") -> Path:
    """Return the folder of a shipped model, for `from_pretrained`.

    Raises:
        ResPruneError: no shipped model has that name.
    """
    known = model_names()
    if name not in known:
        raise ResPruneError(f"no embedded model is called {name!r}. {near_names(name, known)}")
    return _WEIGHTS / name
