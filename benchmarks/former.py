"""Rules that studies followed before, kept to be compared with those of now."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.replay import Candidates
from benchmarks.table import Floats, Ints
from resprune.alpha import Arm, least, nearest_first
from resprune.budget import Budget
from tuner.alpha.candidates import CANDIDATES, fit_candidate
from tuner.alpha.scaling import Scaler
from tuner.results.statistics import standard_error

TOLERANCE = 0.02  # a share of the unpruned tune score
_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
_GUARD = 1.64
_FOLDS, _REPEATS = 5, 2


def former_recommendation(scores: Mapping[int, float], unpruned: float) -> tuple[int, bool]:
    """Recommend a budget: the fewest tokens within 2 % of unpruned on tune, else the knee.

    The knee lies farthest above the line between the ends of the front, tokens on a log scale.

    Args:
        scores: Mean tune score by tokens.
        unpruned: That of the unpruned model.

    Returns:
        Tokens, and whether they were claimed to be within 2 %.
    """
    within = [tokens for tokens, score in scores.items() if score >= (1 - TOLERANCE) * unpruned]
    if within:
        return min(within), True
    budgets = sorted(scores)
    x = np.log(np.array(budgets, dtype=np.float64))
    y = np.array([scores[budget] for budget in budgets])
    height = max(float(y[-1] - y[0]), 1e-12)
    above = (y - y[0]) / height - (x - x[0]) / (x[-1] - x[0])
    return budgets[int(np.argmax(above))], False


def near_tie(candidates: Candidates) -> int:
    """Choose a setting: of those nearly tied with the best, the one nearest to the others.

    Tied are those less than half a paired standard error below the best; nearest is the least mean
    distance, of scores paired by sample.

    Args:
        candidates: Of one budget.

    Returns:
        The table's row of the chosen one.
    """
    scores, means = candidates.scores, candidates.means
    best = scores[means.argmax()]
    near = [
        row is best
        or best.mean() - row.mean() <= 0.5 * standard_error(best, row, candidates.tune.images)
        for row in scores
    ]
    tied = scores[near]
    distances = [round(float(np.abs(tied - row).mean()), 12) for row in tied]
    order = sorted(range(len(tied)), key=lambda i: (distances[i], -float(tied[i].mean())))
    return int(candidates.rows[near][order[0]])


def former_guard(
    x: Floats,
    losses: Mapping[Budget, Floats],
    smooth: Mapping[Budget, Floats],
    arms: list[Arm],
    groups: Ints,
    seed: int,
) -> dict[Budget, bool]:
    """Say at which budgets the alpha predictor was adopted.

    In cross-validation over images the best of twelve tries had to beat the best fixed arm by
    1.64 standard errors, each budget by itself, whatever the number of tries.

    Args:
        x: (N, F) features.
        losses: By budget, (N, A).
        smooth: By budget, (N, A) surrogate.
        arms: A arms.
        groups: (N,) image of each sample, from 0.
        seed: Draws folds and trees.
    """
    gains = {b: np.zeros((len(CANDIDATES), len(_STRENGTHS), len(x))) for b in losses}
    for repeat in range(_REPEATS):
        order = np.random.default_rng(seed + repeat).permutation(int(groups.max()) + 1)
        folds = order[groups] % _FOLDS
        for fold in range(_FOLDS):
            train, test = folds != fold, folds == fold
            scaler = Scaler.of(x[train])
            z, held = scaler(x[train]), scaler(x[test])
            part = {b: loss[train] for b, loss in losses.items()}
            fitted_on = {b: loss[train] for b, loss in smooth.items()}
            for t, name in enumerate(CANDIDATES):
                trees = seed + 101 * repeat + fold
                models = fit_candidate(name, z, part, fitted_on, trees)
                for (b, loss), model in zip(losses.items(), models, strict=True):
                    means, deviations = part[b].mean(axis=0), model.predict(held)
                    fixed, rows = int(np.argmin(means)), np.arange(len(loss[test]))
                    for s, strength in enumerate(_STRENGTHS):
                        arm = least(means + strength * deviations, nearest_first(arms, fixed))
                        gain = loss[test][:, fixed] - loss[test][rows, arm]
                        gains[b][t, s, test] += gain / _REPEATS
    adopted = {}
    for b, gain in gains.items():
        tries = gain.reshape(-1, len(x))
        best = tries[tries.mean(axis=1).argmax()]
        adopted[b] = bool(best.mean() > _GUARD * standard_error(best, None, groups))
    return adopted
