"""Fit the alpha predictor on per-sample outcomes over an alpha grid: ``fit_alpha(...)``.

A decision problem: which alpha is best for one sample is mostly noise, so nothing is regressed to
that. The loss of every alpha is predicted from the prompt's features, shrunk towards the split's
means, and the alpha of least predicted loss is taken. Regressor and strength are chosen per budget
by cross-validation over images, with guards that fall back to the best fixed alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from resprune.alpha import FEATURE_NAMES, AlphaPredictor, BudgetModel
from resprune.alpha.regressors import Regressor
from resprune.errors import StudyError
from tuner.alpha_models import CANDIDATES
from tuner.compare import standard_error

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""Strengths tried beside 0, the fixed alpha."""
GUARD = 1.64
"""Standard errors by which the best try must beat the fixed alpha, or strength 0 is chosen. More
than one, since the best of several tries looks better than it is."""

_FOLDS = 5
_REPEATS = 2
_MIN_VARIED = 0.01
_SURROGATE_SHARE = 0.5


@dataclass(frozen=True)
class CvRow:
    """One try of the cross-validation.

    Attributes:
        budget: Visual tokens kept.
        candidate: Regressor, a key of `tuner.alpha_models.CANDIDATES`.
        strength: Trust in its predictions.
        gain: Mean loss of the fixed alpha minus that of the predicted ones, out of fold.
        standard_error: Of the gain, over images.
        chosen: Whether it became the budget's model.
    """

    budget: int
    candidate: str
    strength: float
    gain: float
    standard_error: float
    chosen: bool = False


@dataclass(frozen=True, eq=False)
class AlphaFit:
    """A fitted predictor and why it is what it is.

    Attributes:
        predictor: Ready to be exported.
        strengths: By budget; 0 where it falls back to the fixed alpha.
        cv: Every try, per budget.
        feature_weights: Mean change of a predicted loss when one feature is shuffled among the
            fit split, over budgets, in units of the loss; features never used are 0.
    """

    predictor: AlphaPredictor
    strengths: dict[int, float]
    cv: tuple[CvRow, ...]
    feature_weights: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Scaler:
    """The features in use and their standardisation, as the predictor stores it."""

    columns: Ints
    center: Floats
    scale: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, features: Floats) -> _Scaler:
        # a feature that almost never varies would fit the noise of the few samples where it does
        enough = max(5, round(_MIN_VARIED * len(features)))
        modes = [np.unique(column, return_counts=True)[1].max() for column in features.T]
        columns = np.flatnonzero(len(features) - np.array(modes) >= enough)
        if not len(columns):
            columns = np.array([0])
        used = features[:, columns]
        scale = used.std(axis=0)
        return cls(
            columns,
            used.mean(axis=0),
            np.where(scale > 1e-9, scale, 1.0),
            used.min(axis=0),
            used.max(axis=0),
        )

    def __call__(self, features: Floats) -> Floats:
        used = np.clip(features[:, self.columns], self.low, self.high)
        scaled: Floats = (used - self.center) / self.scale
        return scaled


def fit_alpha(
    features: npt.ArrayLike,
    losses: Mapping[int, npt.ArrayLike],
    alphas: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    seed: int,
    surrogate: Mapping[int, npt.ArrayLike] | None = None,
) -> AlphaFit:
    """Fit an alpha predictor.

    Args:
        features: (N, F) rows of `resprune.alpha.prompt_features`.
        losses: By budget, (N, A) loss of each sample at each alpha: 1 - score, which decides.
        alphas: (A,) rising grid.
        clusters: (N,) image of each sample; folds and standard errors keep images whole.
        seed: Draws folds and trees.
        surrogate: By budget, (N, A) smoother losses (negative log-likelihoods, clipped), which
            regressors are fitted on in equal parts with the losses but which never decide; or
            None.

    Returns:
        The predictor with its cross-validation.

    Raises:
        StudyError: Shapes do not match, values are not finite, or too few images.
    """
    x = _matrix(features, "features", None, len(FEATURE_NAMES))
    n = len(x)
    grid = np.asarray(alphas, dtype=np.float64)
    if grid.ndim != 1 or len(grid) < 2 or np.any(np.diff(grid) <= 0):
        raise StudyError(f"alpha fit: alphas {grid.tolist()} must be a rising grid of 2 or more")
    if not losses:
        raise StudyError("alpha fit: no budget to fit; give losses for at least one")
    y = {b: _matrix(v, f"losses at budget {b}", n, len(grid)) for b, v in losses.items()}
    smooth = {
        b: _matrix(v, f"surrogate at budget {b}", n, len(grid))
        for b, v in (surrogate or {}).items()
    }
    if smooth and smooth.keys() != y.keys():
        raise StudyError(f"alpha fit: surrogate has budgets {[*smooth]}, losses have {[*y]}")
    groups = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if groups.shape != (n,) or groups.max(initial=0) + 1 < 2 * _FOLDS:
        raise StudyError(
            f"alpha fit: {groups.max(initial=-1) + 1} images for {n} samples; needs one image "
            f"label a sample and at least {2 * _FOLDS} images: enlarge the fit split"
        )

    gains = _cross_validate(x, y, smooth, grid, groups, seed)
    scaler = _Scaler.of(x)
    z = scaler(x)
    fitted: dict[str, list[Regressor]] = {}
    rows: list[CvRow] = []
    models: list[BudgetModel] = []
    for i, (budget, loss) in enumerate(y.items()):
        table, best = _choose(budget, gains[budget], groups)
        rows += table
        strength, regressor = 0.0, None
        if best is not None:
            name, strength = table[best].candidate, table[best].strength
            if name not in fitted:
                fitted[name] = _fit(name, z, y, smooth, seed)
            regressor = fitted[name][i]
        models.append(BudgetModel(budget, loss.mean(axis=0), strength, regressor))
    predictor = AlphaPredictor(
        feature_names=tuple(FEATURE_NAMES[c] for c in scaler.columns),
        center=scaler.center,
        scale=scaler.scale,
        low=scaler.low,
        high=scaler.high,
        alphas=grid,
        models=tuple(models),
    )
    return AlphaFit(
        predictor,
        {int(model.budget): model.strength for model in models},
        tuple(rows),
        _feature_weights(predictor, x, seed),
    )


def grouped_folds(groups: Ints, folds: int, seed: int) -> Ints:
    """Assign whole groups to folds of nearly equal numbers of groups; returns (N,)."""
    count = int(groups.max()) + 1
    fold_of = np.random.default_rng(seed).permutation(count) % folds
    assigned: Ints = fold_of[groups]
    return assigned


def _fit(
    name: str, z: Floats, losses: Mapping[int, Floats], smooth: Mapping[int, Floats], seed: int
) -> list[Regressor]:
    """Fit one candidate to all budgets at once; returns its regressor for each."""
    blocks = [_target(loss, smooth.get(b)) for b, loss in losses.items()]
    # one budget's larger losses must not drown the others' in the choice of splits and pairs
    sizes = [max(float(np.std(block)), 1e-9) for block in blocks]
    targets = np.hstack([block / size for block, size in zip(blocks, sizes, strict=True)])
    part = CANDIDATES[name](z, targets, seed)
    width = blocks[0].shape[1]
    return [part(slice(i * width, (i + 1) * width), size) for i, size in enumerate(sizes)]


def _target(loss: Floats, smooth: Floats | None) -> Floats:
    """Each alpha's loss against the sample's own mean, minus the same over the split.

    How hard a sample is at every alpha says nothing about the choice and is taken out.
    """
    target = _contrast(loss)
    if smooth is None:
        return target
    other = _contrast(smooth)
    # least squares puts the surrogate into units of the loss; one that runs against it is no help
    scale = float(np.sum(target * other) / max(float(np.sum(other**2)), 1e-12))
    if scale <= 0.0:
        return target
    return (1 - _SURROGATE_SHARE) * target + _SURROGATE_SHARE * scale * other


def _contrast(loss: Floats) -> Floats:
    within = loss - loss.mean(axis=1, keepdims=True)
    contrast: Floats = within - within.mean(axis=0)
    return contrast


def _cross_validate(
    x: Floats,
    losses: Mapping[int, Floats],
    smooth: Mapping[int, Floats],
    grid: Floats,
    groups: Ints,
    seed: int,
) -> dict[int, Floats]:
    """Out-of-fold gain over the fixed alpha, by budget: (candidates, strengths, N)."""
    n = len(x)
    gains = {b: np.zeros((len(CANDIDATES), len(STRENGTHS), n)) for b in losses}
    for repeat in range(_REPEATS):
        folds = grouped_folds(groups, _FOLDS, seed + repeat)
        for fold in range(_FOLDS):
            train, test = folds != fold, folds == fold
            scaler = _Scaler.of(x[train])
            z, held = scaler(x[train]), scaler(x[test])
            fit_losses = {b: loss[train] for b, loss in losses.items()}
            fit_smooth = {b: loss[train] for b, loss in smooth.items()}
            for t, name in enumerate(CANDIDATES):
                regressors = _fit(name, z, fit_losses, fit_smooth, seed + 101 * repeat + fold)
                for (b, loss), regressor in zip(losses.items(), regressors, strict=True):
                    means = fit_losses[b].mean(axis=0)
                    gains[b][t][:, test] += _gains(means, regressor.predict(held), loss[test], grid)
    return {b: gain / _REPEATS for b, gain in gains.items()}


def _gains(means: Floats, deviations: Floats, loss: Floats, grid: Floats) -> Floats:
    """Loss of the fixed alpha minus that of the chosen ones: (strengths, N)."""
    fixed = int(np.argmin(means))
    nearest = np.argsort(np.abs(grid - grid[fixed]), kind="stable")
    rows = np.arange(len(loss))
    gains = []
    for strength in STRENGTHS:
        predicted = np.round(means + strength * deviations, 12)
        chosen = nearest[np.argmin(predicted[:, nearest], axis=1)]
        gains.append(loss[:, fixed] - loss[rows, chosen])
    return np.array(gains)


def _choose(budget: int, gains: Floats, groups: Ints) -> tuple[list[CvRow], int | None]:
    """Tabulate the tries and choose one, or None for the fixed alpha.

    The best on average is taken (ties: the simpler regressor, the smaller strength) if it beats
    the fixed alpha by `GUARD` standard errors.
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
    return table, best


def _feature_weights(predictor: AlphaPredictor, x: Floats, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    active = [b for b in predictor.budgets if predictor.strength(b) > 0]
    weights = dict.fromkeys(FEATURE_NAMES, 0.0)
    before = {b: predictor.losses(x, b) for b in active}
    for name in predictor.feature_names if active else ():
        shuffled = x.copy()
        column = FEATURE_NAMES.index(name)
        shuffled[:, column] = rng.permutation(shuffled[:, column])
        moved = [np.abs(predictor.losses(shuffled, b) - before[b]).mean() for b in active]
        weights[name] = float(np.mean(moved))
    return weights


def _matrix(value: npt.ArrayLike, what: str, rows: int | None, columns: int) -> Floats:
    array = np.asarray(value, dtype=np.float64)
    wanted = ("N" if rows is None else rows, columns)
    if array.ndim != 2 or array.shape[1] != columns or rows not in (None, len(array)):
        raise StudyError(f"alpha fit: {what} has shape {array.shape}, expected {wanted}")
    if not np.isfinite(array).all():
        raise StudyError(f"alpha fit: {what} is not finite; clip or drop those samples")
    return array
