"""Choosing a setting of one budget, on the tune split alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resprune.setting import Setting
from tuner.results.statistics import standard_error

Floats = npt.NDArray[np.float64]
NEAR_TIE = 0.5
"""Paired standard errors below the best within which a setting counts as tied with it."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A setting with its scores on the tune split, shape (N,)."""

    setting: Setting
    scores: Floats


def choose_setting(candidates: Sequence[Candidate], images: Sequence[str]) -> Candidate:
    """Choose the setting of one budget.

    The best mean score wins. Settings less than half a paired standard error below it are tied
    with it, since the best of many tries owes part of its lead to luck; among those, the one with
    the median alpha is taken: the middle of the plateau, not its edge. Equal scores go to the
    smaller alpha, then to the candidate named first.

    Args:
        candidates: At least one.
        images: Image of each of the N samples.

    Returns:
        The chosen one.
    """
    means = np.array([candidate.scores.mean() for candidate in candidates])
    best = candidates[int(np.argmax(means))]
    tied = [
        candidate
        for candidate in candidates
        if candidate is best
        or best.scores.mean() - candidate.scores.mean()
        <= NEAR_TIE * standard_error(best.scores, candidate.scores, images)
    ]
    tied.sort(key=lambda candidate: candidate.setting.option("alpha") or 0.0)
    middle = tied[(len(tied) - 1) // 2].setting.option("alpha")
    same = [candidate for candidate in tied if candidate.setting.option("alpha") == middle]
    return max(same, key=lambda candidate: float(candidate.scores.mean()))
