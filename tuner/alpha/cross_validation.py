"""Which regressor and strength a budget gets: cross-validation over whole images, with a guard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from resprune.alpha import Arm, least, nearest_first
from resprune.budget import Budget
from tuner.alpha.candidates import CANDIDATES, fit_candidate
from tuner.alpha.scaling import Scaler
from tuner.results.statistics import standard_error

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""Strengths tried beside 0, the best fixed arm."""
GUARD = 1.64
"""Standard errors by which the best try must beat the best fixed arm, or strength 0 is chosen. More
than one, since the best of several tries looks better than it is."""
FOLDS = 5

_REPEATS = 2


@dataclass(frozen=True)
class CvRow:
    """One try of the cross-validation.

    Attributes:
        budget: Visual tokens kept.
        candidate: Regressor, a key of `tuner.alpha.candidates.CANDIDATES`.
        strength: Trust in its predictions.
        gain: Mean loss of the best fixed arm minus that of the predicted ones, out of fold.
        standard_error: Of the gain, over images.
        chosen: Whether it became the budget's model.
    """

    budget: Budget
    candidate: str
    strength: float
    gain: float
    standard_error: float
    chosen: bool = False


def cross_validate(
    x: Floats,
    losses: Mapping[Budget, Floats],
    smooth: Mapping[Budget, Floats],
    arms: Sequence[Arm],
    groups: Ints,
    seed: int,
) -> dict[Budget, Floats]:
    """Score every candidate and strength out of fold.

    Args:
        x: (N, F) features.
        losses: By budget, (N, A), which decide.
        smooth: By budget, (N, A) surrogate, which is fitted on; or empty.
        arms: A arms.
        groups: (N,) image of each sample, from 0.
        seed: Draws folds and trees.

    Returns:
        By budget, each sample's gain over the best fixed arm: (candidates, strengths, N).
    """
    n = len(x)
    gains = {b: np.zeros((len(CANDIDATES), len(STRENGTHS), n)) for b in losses}
    for repeat in range(_REPEATS):
        folds = grouped_folds(groups, FOLDS, seed + repeat)
        for fold in range(FOLDS):
            train, test = folds != fold, folds == fold
            scaler = Scaler.of(x[train])
            z, held = scaler(x[train]), scaler(x[test])
            fit_losses = {b: loss[train] for b, loss in losses.items()}
            fit_smooth = {b: loss[train] for b, loss in smooth.items()}
            for t, name in enumerate(CANDIDATES):
                trees = seed + 101 * repeat + fold
                regressors = fit_candidate(name, z, fit_losses, fit_smooth, trees)
                for (b, loss), regressor in zip(losses.items(), regressors, strict=True):
                    means = fit_losses[b].mean(axis=0)
                    gains[b][t][:, test] += _gains(means, regressor.predict(held), loss[test], arms)
    return {b: gain / _REPEATS for b, gain in gains.items()}


def choose(budget: Budget, gains: Floats, groups: Ints) -> tuple[list[CvRow], CvRow | None]:
    """Tabulate the tries and choose one, or None for the best fixed arm.

    The best on average is taken (ties: the simpler regressor, the smaller strength) if it beats
    the best fixed arm by `GUARD` standard errors.

    Args:
        budget: Visual tokens kept.
        gains: (candidates, strengths, N).
        groups: (N,) image of each sample.

    Returns:
        Every try, and the chosen one.
    """
    table = [
        CvRow(budget, name, strength, float(gain.mean()), standard_error(gain, None, groups))
        for name, per_strength in zip(CANDIDATES, gains, strict=True)
        for strength, gain in zip(STRENGTHS, per_strength, strict=True)
    ]
    best = int(np.argmax([row.gain for row in table]))
    if table[best].gain <= GUARD * table[best].standard_error:
        return table, None
    table[best] = replace(table[best], chosen=True)
    return table, table[best]


def grouped_folds(groups: Ints, folds: int, seed: int) -> Ints:
    """Assign whole groups to folds of nearly equal numbers of groups; returns (N,)."""
    count = int(groups.max()) + 1
    fold_of = np.random.default_rng(seed).permutation(count) % folds
    assigned: Ints = fold_of[groups]
    return assigned


def _gains(means: Floats, deviations: Floats, loss: Floats, arms: Sequence[Arm]) -> Floats:
    """Loss of the best fixed arm minus that of the chosen ones: (strengths, N)."""
    fixed = int(np.argmin(means))
    order = nearest_first(arms, fixed)
    rows = np.arange(len(loss))
    chosen = [least(means + strength * deviations, order) for strength in STRENGTHS]
    return np.array([loss[:, fixed] - loss[rows, arm] for arm in chosen])
