"""Rank correlations within samples and over all.

Pure numbers. Plans of a sample are rows, samples are columns; images are the clusters of every
interval, since questions about one image share its luck.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from tuner.results.schema import Interval
from tuner.results.statistics import LEVEL

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Resamples:
    """Bootstrap draws of images, the same for everything that is resampled.

    Args:
        images: Image of each of N samples.
        draws: How many.
        seed: Of the draws.

    Attributes:
        image: (N,) number of each sample's image, from 0.
        weights: (draws, G) how often each image is drawn.
    """

    def __init__(self, images: Sequence[str], draws: int, seed: int) -> None:
        names, place = np.unique(np.asarray(images), return_inverse=True)
        self.image: Ints = place.astype(np.int64)
        count = len(names)
        chances = np.full(count, 1 / count)
        self.weights: Ints = np.random.default_rng(seed).multinomial(count, chances, size=draws)

    def mean(self, values: Floats) -> tuple[Interval | None, int, int]:
        """Return the mean of values (N,) with its percentile interval; NaN is left out.

        Returns:
            The mean (None where nothing is left), its samples and their images.
        """
        there = np.isfinite(values)
        if not there.any():
            return None, 0, 0
        images = self.weights.shape[1]
        sums = np.bincount(self.image[there], values[there], images)
        sizes = np.bincount(self.image[there], minlength=images)
        drawn = self.weights @ sizes
        means = (self.weights @ sums)[drawn > 0] / drawn[drawn > 0]
        middle = float(values[there].mean())
        return _interval(middle, means), int(there.sum()), int((sizes > 0).sum())


def distinct(keys: Sequence[Sequence[bytes]]) -> Bools:
    """Say which plans are the first of their kind for a sample, shape (P, N), by their keys."""
    found = np.zeros((len(keys), len(keys[0])), dtype=np.bool_)
    for i, column in enumerate(zip(*keys, strict=True)):
        found[[column.index(key) for key in set(column)], i] = True
    return found


def within(measure: Floats, outcome: Floats, there: Bools) -> Floats:
    """Correlate the ranks of two quantities within each sample (Spearman's rho).

    Args:
        measure: Shape (P, N).
        outcome: Shape (P, N).
        there: Plans that count, shape (P, N).

    Returns:
        Shape (N,); NaN where one of the two is the same for all plans that count.
    """
    (a, b) = (_centred(np.where(there, values, np.nan)) for values in (measure, outcome))
    spread = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    rho = np.full(measure.shape[1], np.nan)
    np.divide((a * b).sum(axis=0), spread, out=rho, where=spread > 0)
    return rho


def _centred(values: Floats) -> Floats:
    ranks = rankdata(values, axis=0, nan_policy="omit")
    counts = np.isfinite(ranks).sum(axis=0)
    # ranks of n values sum up to n (n + 1) / 2, so their mean is known without rounding
    return np.asarray(np.nan_to_num(ranks - (counts + 1) / 2))


def at_once(
    measures: Floats, outcomes: Floats, there: Bools, resamples: Resamples
) -> list[list[Interval | None]]:
    """Correlate the ranks of all plans of all samples together (Spearman's rho).

    Each bootstrap draw takes whole images and ranks anew.

    Args:
        measures: Shape (M, P, N).
        outcomes: Shape (O, P, N).
        there: Plans that count, shape (P, N).
        resamples: Of the samples' images.

    Returns:
        M lists of O; None where one of the two is the same for all.
    """
    image = np.broadcast_to(resamples.image, there.shape)[there]
    groups = [np.unique(values[there], return_inverse=True)[1] for values in (*measures, *outcomes)]

    def rho(weight: Floats) -> Floats:
        ranks = np.stack([_midranks(group, weight) for group in groups])
        ranks -= (ranks @ weight / weight.sum())[:, None]
        a, b = ranks[: len(measures)], ranks[len(measures) :]
        spread = np.sqrt(np.outer((a**2) @ weight, (b**2) @ weight))
        found = np.full(spread.shape, np.nan)
        # a spread at rounding level is none
        np.divide((a * weight) @ b.T, spread, out=found, where=spread > 1e-6)
        return found

    whole = rho(np.ones(image.size))
    drawn = np.stack([rho(weight[image].astype(np.float64)) for weight in resamples.weights])
    return [
        [
            _interval(float(middle), draws[np.isfinite(draws)]) if np.isfinite(middle) else None
            for middle, draws in zip(row, columns, strict=True)
        ]
        for row, columns in zip(whole, np.moveaxis(drawn, 0, -1), strict=True)
    ]


def _midranks(group: npt.NDArray[np.intp], weight: Floats) -> Floats:
    """Rank values, given as numbers of equal ones in rising order, each ``weight`` times there."""
    sizes = np.bincount(group, weight)
    ranks: Floats = (np.cumsum(sizes) - (sizes - 1) / 2)[group]
    return ranks


def _interval(middle: float, draws: Floats) -> Interval:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean=middle, low=float(low), high=float(high))
