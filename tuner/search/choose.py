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
    with it, since the best of many tries owes part of its lead to luck; among those the one nearest
    the others is taken, the middle of the plateau and not its edge: the least mean distance, of
    scores paired by sample, to the other tied ones. Equal distances go to the higher score, then
    to the candidate named first.

    Args:
        candidates: At least one.
        images: Image of each of the N samples.

    Returns:
        The chosen one.
    """
    unique = list({candidate.setting: candidate for candidate in candidates}.values())
    best = max(unique, key=lambda candidate: float(candidate.scores.mean()))
    tied = [
        candidate
        for candidate in unique
        if candidate is best
        or best.scores.mean() - candidate.scores.mean()
        <= NEAR_TIE * standard_error(best.scores, candidate.scores, images)
    ]
    scores = np.stack([candidate.scores for candidate in tied])
    distances = [round(float(np.abs(scores - row).mean()), 12) for row in scores]
    order = sorted(range(len(tied)), key=lambda i: (distances[i], -float(scores[i].mean())))
    return tied[order[0]]
