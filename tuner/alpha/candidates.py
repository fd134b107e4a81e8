"""Candidate regressors for the alpha predictor: fitted by scikit-learn, kept as plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from resprune.alpha import Forest, Linear, Regressor, expand_pairs
from resprune.budget import Budget

Floats = npt.NDArray[np.float64]
Part = Callable[[slice, float], Regressor]
"""The regressor of a slice of the outputs, multiplied by a factor."""
Fit = Callable[[Floats, Floats, int], Part]
"""(standardised features (N, F'), targets (N, A * budgets), seed) -> its parts."""

_PENALTIES = np.logspace(1.0, 4.5, 8)
_PAIRS = 30
# gains on outcomes drawn from real accuracy curves are flat from 16 to 60 trees and from depth 4 to
# 6, so the file decides: about 330 kB for 4 budgets of 8 alphas
_TREES = 24
_DEPTH = 4
_LEAF_SHARE = 1 / 40
_MIN_LEAF = 10
_SURROGATE_SHARE = 0.5


def fit_ridge(features: Floats, targets: Floats, seed: int) -> Part:
    """Ridge on standardised features, its penalty by leave-one-out."""
    return _ridge(features, targets, np.zeros((0, 2), dtype=np.int64))


def fit_pairs(features: Floats, targets: Floats, seed: int) -> Part:
    """Ridge on features and on those products of two that its residuals follow most.

    Products state what sums cannot: 'number' on a named shape needs relevance, 'number' on 'the
    red thing' is hurt by it.
    """
    flat = np.zeros((0, 2), dtype=np.int64)
    residual = targets - _ridge(features, targets, flat)(slice(None), 1.0).predict(features)
    pairs = np.array(list(combinations(range(features.shape[1]), 2)), dtype=np.int64)
    if not len(pairs):
        return fit_ridge(features, targets, seed)
    products = features[:, pairs[:, 0]] * features[:, pairs[:, 1]]
    products -= products.mean(axis=0)
    norms = np.linalg.norm(products, axis=0)
    strength = np.linalg.norm(products.T @ residual, axis=1) / np.maximum(norms, 1e-9)
    best = np.sort(np.argsort(-strength, kind="stable")[:_PAIRS])
    return _ridge(features, targets, pairs[best])


def fit_forest(features: Floats, targets: Floats, seed: int) -> Part:
    """A small random forest that splits on all arms and budgets at once."""
    forest = sklearn_forest(len(features), seed)
    forest.fit(features.astype(np.float32), targets)
    return lambda outputs, factor: forest_arrays(forest, outputs, factor)


CANDIDATES: dict[str, Fit] = {"ridge": fit_ridge, "pairs": fit_pairs, "forest": fit_forest}
"""From the simplest; ties go to the earlier."""


def fit_candidate(
    name: str,
    z: Floats,
    losses: Mapping[Budget, Floats],
    smooth: Mapping[Budget, Floats],
    seed: int,
) -> list[Regressor]:
    """Fit one candidate to all budgets at once.

    Args:
        name: Key of `CANDIDATES`.
        z: (N, F') standardised features.
        losses: By budget, (N, A).
        smooth: By budget, (N, A) surrogate; or empty.
        seed: Draws trees.

    Returns:
        Its regressor for each budget, of each arm's deviation from its mean loss.
    """
    blocks = [_target(loss, smooth.get(b)) for b, loss in losses.items()]
    # one budget's larger losses must not drown the others' in the choice of splits and pairs
    sizes = [max(float(np.std(block)), 1e-9) for block in blocks]
    targets = np.hstack([block / size for block, size in zip(blocks, sizes, strict=True)])
    part = CANDIDATES[name](z, targets, seed)
    width = blocks[0].shape[1]
    return [part(slice(i * width, (i + 1) * width), size) for i, size in enumerate(sizes)]


def sklearn_forest(samples: int, seed: int) -> Any:
    """The unfitted scikit-learn forest for a number of samples."""
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(
        n_estimators=_TREES,
        max_depth=_DEPTH,
        min_samples_leaf=max(_MIN_LEAF, round(_LEAF_SHARE * samples)),
        max_features=0.4,
        random_state=seed,
    )


def forest_arrays(forest: Any, outputs: slice, factor: float = 1.0) -> Forest:
    """Copy some outputs of a fitted scikit-learn forest into flat arrays.

    Leaf values keep 6 significant digits, which is far below their noise and a third of the file.
    """
    roots, feature, threshold, right, values = [], [], [], [], []
    size = 0
    for tree in (estimator.tree_ for estimator in forest.estimators_):
        inner = tree.children_left >= 0
        nodes = np.arange(tree.node_count)
        if not np.array_equal(tree.children_left[inner], nodes[inner] + 1):
            raise AssertionError("scikit-learn no longer grows trees in pre-order")
        roots.append(size)
        feature.append(np.where(inner, tree.feature, -1))
        threshold.append(tree.threshold[inner])
        right.append(tree.children_right[inner] + size)
        values.append(tree.value[~inner, outputs, 0])
        size += tree.node_count
    return Forest(
        roots=np.array(roots, dtype=np.int64),
        feature=np.concatenate(feature).astype(np.int64),
        threshold=np.concatenate(threshold),
        right=np.concatenate(right).astype(np.int64),
        values=_significant(np.concatenate(values) * factor),
    )


def _ridge(features: Floats, targets: Floats, pairs: npt.NDArray[np.int64]) -> Part:
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(alphas=_PENALTIES).fit(expand_pairs(features, pairs), targets)
    weights = np.atleast_2d(model.coef_).T
    bias = np.atleast_1d(model.intercept_)
    return lambda outputs, factor: Linear(
        pairs=pairs, weights=weights[:, outputs] * factor, bias=bias[outputs] * factor
    )


def _significant(values: Floats) -> Floats:
    return np.array([float(f"{v:.6g}") for v in values.ravel()]).reshape(values.shape)


def _target(loss: Floats, smooth: Floats | None) -> Floats:
    """Each arm's loss against the sample's own mean, minus the same over the split.

    How hard a sample is at every arm says nothing about the choice and is taken out.
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
