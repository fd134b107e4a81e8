"""The two regressors of an alpha predictor: read by pydantic, evaluated with numpy alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from resprune.alpha.arrays import (
    Floats,
    Indices,
    Ints,
    Matrix,
    Pairs,
    Vector,
    expect,
    expect_within,
)
from resprune.errors import near_names
from resprune.validation import StrictModel, explain, shown


class Linear(StrictModel):
    """Linear in standardised features and chosen products of two of them.

    Attributes:
        kind: ``linear``.
        pairs: (P, 2) columns whose products follow the F features.
        weights: (F + P, A).
        bias: (A,).
    """

    kind: Literal["linear"] = "linear"
    pairs: Annotated[Pairs, Field(max_length=2_000)]
    weights: Matrix
    bias: Vector

    def check(self, features: int, outputs: int) -> None:
        """Raise a ValueError that names the key unless it maps F ``features`` to A ``outputs``."""
        pairs = len(self.pairs)
        if pairs:
            expect("pairs", self.pairs, pairs, 2)
        expect_within("pairs", self.pairs, 0, features - 1)
        expect("weights", self.weights, features + pairs, outputs)
        expect("bias", self.bias, outputs)

    def predict(self, features: Floats) -> Floats:
        """Map standardised features (N, F) to outputs (N, A)."""
        return expand_pairs(features, self.pairs) @ self.weights + self.bias


def expand_pairs(features: Floats, pairs: Ints) -> Floats:
    """Append the products of the column pairs (P, 2) to features (N, F): (N, F + P)."""
    if not len(pairs):
        return features
    return np.hstack([features, features[:, pairs[:, 0]] * features[:, pairs[:, 1]]])


class Forest(StrictModel):
    """The mean of regression trees, stored flat in pre-order.

    In pre-order the left child of node i is node i + 1, so only right children are stored and a
    walk always moves forward: no data can make it loop.

    Attributes:
        kind: ``forest``.
        roots: (trees,) index of each tree's root, rising from 0.
        feature: (nodes,) column that a node tests, or -1 at a leaf.
        threshold: (inner nodes,) go left when the float32 feature is <= this.
        right: (inner nodes,) right child.
        values: (leaves, A) outputs of the leaves in order of their nodes.
    """

    kind: Literal["forest"] = "forest"
    roots: Annotated[Indices, Field(min_length=1, max_length=1_000)]
    feature: Indices
    threshold: Vector
    right: Indices
    values: Matrix

    @model_validator(mode="after")
    def _is_trees(self) -> Self:
        inner = int((self.feature >= 0).sum())
        expect("threshold", self.threshold, inner)
        expect("right", self.right, inner)
        if self.roots[0] != 0 or np.any(np.diff(self.roots) <= 0):
            raise ValueError("roots: must start at 0 and rise")
        expect_within("roots", self.roots, 0, len(self.feature) - 1)
        feature, right = self.feature.tolist(), iter(self.right.tolist())
        for start, end in itertools.pairwise([*self.roots.tolist(), len(feature)]):
            waiting = [end]  # where the walk goes on after the subtrees that it is in
            for node in range(start, end):
                if feature[node] >= 0:
                    waiting.append(next(right))
                elif waiting.pop() != node + 1:
                    raise ValueError(f"right: node {node + 1} is not in pre-order")
            if waiting:
                raise ValueError(f"right: the tree at node {start} does not end at {end}")
        return self

    def check(self, features: int, outputs: int) -> None:
        """Raise a ValueError that names the key unless it maps F ``features`` to A ``outputs``."""
        expect_within("feature", self.feature, -1, features - 1)
        expect("values", self.values, int((self.feature < 0).sum()), outputs)

    def predict(self, features: Floats) -> Floats:
        """Map standardised features (N, F) to outputs (N, A)."""
        # scikit-learn's trees compare float32 features with float64 thresholds
        x = features.astype(np.float32).astype(np.float64)
        leaf = np.cumsum(self.feature < 0) - 1
        branch = np.cumsum(self.feature >= 0) - 1
        rows = np.arange(len(x))[:, None]
        node = np.broadcast_to(self.roots, (len(x), len(self.roots)))
        while True:
            column = self.feature[node]
            inner = column >= 0
            if not inner.any():
                break
            left = x[rows, column] <= self.threshold[branch[node]]
            node = np.where(inner, np.where(left, node + 1, self.right[branch[node]]), node)
        total: Floats = self.values[leaf[node]].mean(axis=1)
        return total


_KINDS: dict[str, type[Linear] | type[Forest]] = {"linear": Linear, "forest": Forest}


def _read(value: Any) -> Linear | Forest:
    """Read a regressor as its own kind, so that an error names that kind's keys."""
    if isinstance(value, Linear | Forest):
        return value
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"unknown kind {shown(kind)}. {near_names(str(kind), _KINDS)}")
    try:
        return _KINDS[kind].model_validate(value)
    except ValidationError as error:
        raise ValueError(explain(error, _KINDS[kind])) from None


Regressor = Annotated[Linear | Forest, BeforeValidator(_read)]
"""A regressor of either kind."""
