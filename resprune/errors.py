"""Errors a user can meet: each message names the value, the place and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ResPruneError(ValueError):
    """Base of every error this package raises on purpose."""


class ConfigError(ResPruneError):
    """A pruning config that cannot be read, is out of range or fits another model."""


class StudyError(ResPruneError):
    """A study file, split, run folder or cache that cannot be used."""


class UnsupportedModelError(ResPruneError):
    """A model, seed signal or mode of use that no backbone supports."""


def near_names(name: str, allowed: Iterable[str]) -> str:
    """Return ``did you mean 'x'? Allowed: ...`` for an unknown ``name``.

    Args:
        name: What the user wrote.
        allowed: Every accepted name.

    Returns:
        A sentence to append to an error message.
    """
    options = sorted(allowed)
    close = difflib.get_close_matches(name, options, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"{hint}Allowed: {', '.join(options)}."
