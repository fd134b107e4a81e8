"""How sure a difference is: paired bootstrap over images, and standard errors.

Questions about one image share its luck, so whole images are drawn, never single questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from resprune.errors import ResPruneError
from tuner.results.schema import Interval

_Array = npt.NDArray[np.float64]
_CHUNK = 2**22  # draws held at once, about 32 MB


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals over the images of one split.

    Attributes:
        images: Image of each sample.
        groups: Question type of each sample.
        seed: Draws the resamples.
        resamples: How many.
    """

    images: Sequence[str]
    groups: Sequence[str]
    seed: int
    resamples: int

    def of(self, a: _Array, b: _Array | None = None) -> Interval:
        """Return the mean of ``a``, or of ``a - b``, with its interval."""
        return paired_bootstrap(a, b, self.images, seed=self.seed, resamples=self.resamples)

    def by_group(self, a: _Array) -> dict[str, Interval]:
        """Return the mean of each group with its interval."""
        images, groups = np.array(self.images), np.array(self.groups)
        return {
            group: replace(self, images=images[groups == group].tolist()).of(a[groups == group])
            for group in sorted(set(self.groups))
        }


def paired_bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike | None,
    clusters: npt.ArrayLike,
    *,
    seed: int,
    resamples: int = 2000,
) -> Interval:
    """95 % percentile bootstrap interval for the mean of ``a``, or of ``a - b``, over images.

    Args:
        a: (N,) scores.
        b: (N,) scores of the same samples, or None.
        clusters: (N,) image of each sample: any hashable labels.
        seed: Draws the resamples.
        resamples: How many.

    Returns:
        Mean with its interval. With one image the interval is the mean itself.

    Raises:
        ResPruneError: Lengths differ, nothing to compare, or values not finite.
    """
    values, groups = _differences(a, b, clusters)
    sums, sizes = _totals(values, groups)
    images = len(sums)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // images)
    means: list[_Array] = []
    for done in range(0, resamples, step):
        draws = rng.integers(images, size=(min(step, resamples - done), images))
        means.append(sums[draws].sum(axis=1) / sizes[draws].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def standard_error(a: npt.ArrayLike, b: npt.ArrayLike | None, clusters: npt.ArrayLike) -> float:
    """Cluster-robust standard error of the mean of ``a``, or of ``a - b``.

    Args:
        a: (N,) scores.
        b: (N,) scores of the same samples, or None.
        clusters: (N,) image of each sample.

    Returns:
        The standard error; 0 with a single image, which says nothing about others.

    Raises:
        ResPruneError: Lengths differ, nothing to compare, or values not finite.
    """
    values, groups = _differences(a, b, clusters)
    sums, sizes = _totals(values - values.mean(), groups)
    images = len(sums)
    if images < 2:
        return 0.0
    return float(np.sqrt(images / (images - 1) * np.sum(sums**2)) / sizes.sum())


def _totals(values: _Array, groups: npt.NDArray[np.int64]) -> tuple[_Array, _Array]:
    sizes: _Array = np.bincount(groups).astype(np.float64)
    return np.bincount(groups, weights=values).astype(np.float64), sizes


def _differences(
    a: npt.ArrayLike, b: npt.ArrayLike | None, clusters: npt.ArrayLike
) -> tuple[_Array, npt.NDArray[np.int64]]:
    values = np.asarray(a, dtype=np.float64)
    other = np.zeros_like(values) if b is None else np.asarray(b, dtype=np.float64)
    labels = np.asarray(clusters)
    if values.ndim != 1 or not len(values) or not values.shape == other.shape == labels.shape:
        raise ResPruneError(
            f"paired comparison: scores of shape {values.shape} and {other.shape} with clusters of "
            f"shape {labels.shape}; give three lists of one length, at least 1"
        )
    difference = values - other
    if not np.isfinite(difference).all():
        raise ResPruneError("paired comparison: a score is not finite; drop or repair that sample")
    return difference, np.unique(labels, return_inverse=True)[1].astype(np.int64)
