"""What each regressor and strength gains on prompts that it was not fitted on.

Folds are taken in an order, and each is predicted by what was fitted on the folds before it.
Ordinary cross-validation fits on the others of each fold, so any two folds tell on each other
twice, once each way: where nothing is to be gained, gains of two folds are then the same product
of the same two chances, and the variance of their sum is up to twice what the samples show. In one
direction a fold's gain, given all that came before, varies by its own samples alone, whatever the
regressor, and the variances add up (prequential validation: Dawid 1984).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from resprune.alpha import Arm, least, nearest_first
from resprune.budget import Budget
from tuner.alpha.candidates import CANDIDATES, fit_candidate
from tuner.alpha.guard import Evidence, weigh
from tuner.alpha.scaling import Scaler

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""Strengths tried beside 0, the best fixed arm."""
FOLDS = 5


def tries() -> list[tuple[str, float]]:
    """Return every candidate and strength, from the simplest."""
    return list(product(CANDIDATES, STRENGTHS))


@dataclass(frozen=True)
class Gains:
    """Out-of-fold gains over the best fixed arm of the folds fitted on.

    Attributes:
        by_budget: By budget, (2, tries, N): along the order of folds, and against it; 0 where a
            sample was not predicted.
        tested: (2, N) which samples were predicted.
        groups: (N,) group of each sample, whole in a fold.
    """

    by_budget: dict[Budget, Floats]
    tested: Bools
    groups: Ints

    def evidence(self, seed: int) -> dict[Budget, list[Evidence]]:
        """Test every try at every budget, all together; by budget in the order of `tries`."""
        found = weigh(np.concatenate([*self.by_budget.values()], 1), self.tested, self.groups, seed)
        count = len(tries())
        return {b: found[i * count :][:count] for i, b in enumerate(self.by_budget)}


def cross_validate(
    x: Floats,
    losses: Mapping[Budget, Floats],
    smooth: Mapping[Budget, Floats],
    arms: Sequence[Arm],
    groups: Ints,
    seed: int,
) -> Gains:
    """Score every try on folds of whole groups, each from the folds before it.

    Args:
        x: (N, F) features.
        losses: By budget, (N, A), which decide.
        smooth: By budget, (N, A) surrogate, which is fitted on; or empty.
        arms: A arms.
        groups: (N,) group of each sample, from 0: its image, or its wording.
        seed: Draws folds and trees.

    Returns:
        The gains of both directions.
    """
    n = len(x)
    folds = grouped_folds(groups, FOLDS, seed)
    gains = {b: np.zeros((2, len(tries()), n)) for b in losses}
    tested = np.zeros((2, n), dtype=np.bool_)
    for direction, place in product((0, 1), range(1, FOLDS)):
        order = folds if direction == 0 else FOLDS - 1 - folds
        train, test = order < place, order == place
        tested[direction] |= test
        scaler = Scaler.of(x[train])
        z, held = scaler(x[train]), scaler(x[test])
        fit_losses = {b: loss[train] for b, loss in losses.items()}
        fit_smooth = {b: loss[train] for b, loss in smooth.items()}
        for t, name in enumerate(CANDIDATES):
            trees = seed + 101 * direction + place
            regressors = fit_candidate(name, z, fit_losses, fit_smooth, trees)
            rows = slice(t * len(STRENGTHS), (t + 1) * len(STRENGTHS))
            for (b, loss), regressor in zip(losses.items(), regressors, strict=True):
                means = fit_losses[b].mean(axis=0)
                found = _gains(means, regressor.predict(held), loss[test], arms)
                gains[b][direction][rows, test] = found
    return Gains(gains, tested, groups)


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
