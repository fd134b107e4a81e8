"""The two regressors of an alpha predictor, evaluated with numpy alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resprune.alpha.reading import Place

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_PAIRS = 2_000
MAX_NODES = 100_000
MAX_TREES = 1_000


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear in standardised features and chosen products of two of them.

    Attributes:
        pairs: (P, 2) columns whose products follow the F features.
        weights: (F + P, A).
        bias: (A,).
    """

    pairs: Ints
    weights: Floats
    bias: Floats

    def predict(self, features: Floats) -> Floats:
        """Map standardised features (N, F) to outputs (N, A)."""
        return expand_pairs(features, self.pairs) @ self.weights + self.bias

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "kind": "linear",
            "pairs": self.pairs.tolist(),
            "weights": self.weights.tolist(),
            "bias": self.bias.tolist(),
        }

    @classmethod
    def from_place(cls, place: Place, features: int, outputs: int) -> Linear:
        """Read and check untrusted data.

        Raises:
            ConfigError: Wrong shape, index or number; names the place.
        """
        pairs = place.integers("pairs", (None, 2), low=0, high=features - 1, most=MAX_PAIRS)
        weights = place.numbers("weights", (features + len(pairs), outputs))
        return cls(pairs, weights, place.numbers("bias", (outputs,)))


def expand_pairs(features: Floats, pairs: Ints) -> Floats:
    """Append the products of the column pairs (P, 2) to features (N, F): (N, F + P)."""
    if not len(pairs):
        return features
    return np.hstack([features, features[:, pairs[:, 0]] * features[:, pairs[:, 1]]])


@dataclass(frozen=True, eq=False)
class Forest:
    """The mean of regression trees, stored flat in pre-order.

    In pre-order the left child of node i is node i + 1, so only right children are stored and a
    walk always moves forward: no data can make it loop.

    Attributes:
        roots: (trees,) index of each tree's root, rising from 0.
        feature: (nodes,) column that a node tests, or -1 at a leaf.
        threshold: (nodes,) go left when the float32 feature is <= this; 0 at a leaf.
        right: (nodes,) right child; 0 at a leaf.
        values: (leaves, A) outputs of the leaves in order of their nodes.
    """

    roots: Ints
    feature: Ints
    threshold: Floats
    right: Ints
    values: Floats

    def predict(self, features: Floats) -> Floats:
        """Map standardised features (N, F) to outputs (N, A)."""
        # scikit-learn's trees compare float32 features with float64 thresholds
        x = features.astype(np.float32).astype(np.float64)
        leaf = np.cumsum(self.feature < 0) - 1
        rows = np.arange(len(x))[:, None]
        node = np.broadcast_to(self.roots, (len(x), len(self.roots)))
        while True:
            column = self.feature[node]
            inner = column >= 0
            if not inner.any():
                break
            left = x[rows, column] <= self.threshold[node]
            node = np.where(inner, np.where(left, node + 1, self.right[node]), node)
        total: Floats = self.values[leaf[node]].mean(axis=1)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        inner = self.feature >= 0
        return {
            "kind": "forest",
            "roots": self.roots.tolist(),
            "feature": self.feature.tolist(),
            "threshold": self.threshold[inner].tolist(),
            "right": self.right[inner].tolist(),
            "values": self.values.tolist(),
        }

    @classmethod
    def from_place(cls, place: Place, features: int, outputs: int) -> Forest:
        """Read and check untrusted data.

        Raises:
            ConfigError: Wrong shape, index or number, or nodes that are no trees; names the place.
        """
        feature = place.integers("feature", (None,), low=-1, high=features - 1, most=MAX_NODES)
        inner = np.flatnonzero(feature >= 0)
        nodes = len(feature)
        roots = place.integers("roots", (None,), low=0, high=max(nodes - 1, 0), most=MAX_TREES)
        thresholds = place.numbers("threshold", (len(inner),))
        children = place.integers("right", (len(inner),), low=0, high=max(nodes - 1, 0))
        values = place.numbers("values", (nodes - len(inner), outputs))
        if not len(roots) or roots[0] != 0 or np.any(np.diff(roots) <= 0):
            raise place.error("roots", "must start at 0 and rise")
        _check_preorder(
            place,
            feature,
            dict(zip(inner.tolist(), children.tolist(), strict=True)),
            [*roots.tolist(), nodes],
        )
        threshold, right = np.zeros(nodes), np.zeros(nodes, dtype=np.int64)
        threshold[inner], right[inner] = thresholds, children
        return cls(roots, feature, threshold, right, values)


def _check_preorder(
    place: Place, feature: Ints, right: Mapping[int, int], bounds: list[int]
) -> None:
    """Check that each stretch of nodes is exactly one tree in pre-order."""
    for start, end in itertools.pairwise(bounds):
        waiting: list[int] = []  # right children whose left subtree is being walked
        for node in range(start, end):
            if feature[node] >= 0:
                waiting.append(right[node])
            elif node + 1 < end:
                if not waiting or waiting.pop() != node + 1:
                    raise place.error("right", f"node {node + 1} is not in pre-order")
            elif waiting:
                raise place.error("right", f"the tree at node {start} does not end at {end}")
        if end == start or feature[end - 1] >= 0:
            raise place.error("feature", f"the tree at node {start} has no last leaf")


Regressor = Linear | Forest


def read_regressor(place: Place, features: int, outputs: int) -> Regressor:
    """Read a regressor of either kind.

    Raises:
        ConfigError: Unknown kind or wrong data; names the place.
    """
    kinds: dict[str, type[Linear] | type[Forest]] = {"linear": Linear, "forest": Forest}
    return kinds[place.choice("kind", kinds)].from_place(place, features, outputs)
