"""Choosing a setting and a budget on the tune split alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tuner.compare import standard_error
from tuner.evaluate import Floats, Setting
from tuner.study import ObjectiveSpec

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
    tied.sort(key=lambda candidate: candidate.setting.alpha)
    middle = tied[(len(tied) - 1) // 2].setting.alpha
    same = [candidate for candidate in tied if candidate.setting.alpha == middle]
    return max(same, key=lambda candidate: float(candidate.scores.mean()))


def recommend(
    objective: ObjectiveSpec, scores: Mapping[int, float], unpruned: float, metric: str
) -> tuple[int, str]:
    """Recommend one of the budgets.

    ``pareto``: the fewest tokens whose tune score is within the tolerance of unpruned, else the
    knee (farthest above the line between the ends of the front, tokens on a log scale).
    ``quality-floor``: the fewest tokens that meet the floor, else the most. ``fixed-budget``: its
    own.

    Args:
        objective: The study's.
        scores: Chosen setting's mean tune score by budget.
        unpruned: The unpruned model's.
        metric: The study's metric; log-likelihoods are compared in nats, others as shares.

    Returns:
        The budget, and a sentence that says why.
    """
    budgets = sorted(scores)
    if objective.kind == "fixed-budget":
        return budgets[0], f"{budgets[0]} tokens is the budget that the study fixed."
    lost = objective.tolerance if objective.kind == "pareto" else 1 - (objective.keep or 1.0)
    floor = floor_of(unpruned, lost, metric)
    meeting = [budget for budget in budgets if scores[budget] >= floor]
    if meeting:
        return meeting[0], (
            f"{meeting[0]} tokens is the smallest budget whose tune score {scores[meeting[0]]:.3f} "
            f"is at least {floor:.3f}, {lost:.1%} below the unpruned {unpruned:.3f}."
        )
    if objective.kind == "quality-floor":
        return budgets[-1], (
            f"No budget meets the quality floor {floor:.3f}; {budgets[-1]} tokens comes nearest "
            f"with {scores[budgets[-1]]:.3f}. Add larger budgets to the search."
        )
    chosen = _knee(budgets, [scores[budget] for budget in budgets])
    return chosen, (
        f"No budget is within {lost:.1%} of the unpruned tune score {unpruned:.3f}; {chosen} "
        "tokens is the knee of the front."
    )


def floor_of(unpruned: float, lost: float, metric: str) -> float:
    """Return the score that may not be fallen below: a share, or nats for log-likelihoods."""
    return unpruned - lost if metric == "log_likelihood" else unpruned * (1 - lost)


def _knee(budgets: Sequence[int], scores: Sequence[float]) -> int:
    if len(budgets) < 3:
        return budgets[-1]
    x = np.log(np.array(budgets, dtype=np.float64))
    y = np.array(scores)
    height = max(float(y[-1] - y[0]), 1e-12)
    above = (y - y[0]) / height - (x - x[0]) / (x[-1] - x[0])
    return budgets[int(np.argmax(above))]
