"""Is a gain real? One-sided tests of many tries at once, by image or by wording."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CONFIDENCE = 0.95
"""One-sided confidence with which a gain must be shown, over all tries and budgets together."""

_DRAWS = 1999
_CHUNK = 2**22  # signs held at once, about 32 MB


@dataclass(frozen=True)
class Evidence:
    """What validation says of one try.

    Attributes:
        gain: Mean loss of the best fixed arm minus that of the predicted ones.
        standard_error: Of the gain, over clusters.
        p_value: Chance of a studentised gain this large in the best of all tries and budgets,
            where none gains.
    """

    gain: float
    standard_error: float
    p_value: float

    @property
    def shown(self) -> bool:
        """Whether the gain is shown at `CONFIDENCE`."""
        return self.gain > 0 and self.p_value <= 1 - CONFIDENCE


def weigh(gains: Floats, tested: Bools, clusters: Ints, seed: int) -> list[Evidence]:
    """Test every try against no gain, all of them together (max-t).

    In each order of folds the gains are studentised by cluster. Under no gain the sign of a
    cluster's sum is a toss: the largest studentised gain over tries, with one sign drawn for each
    cluster, gives the distribution that p-values are read from (a wild cluster bootstrap with the
    null imposed: Cameron, Gelbach and Miller 2008; max-t: Romano and Wolf 2005). Orders are
    averaged, gains and standard errors alike: the mean of R statistics of one variance has no
    larger a variance, however they depend on each other.

    Args:
        gains: (R, K, N) of R orders and K tries.
        tested: (R, N) which samples were predicted in each order.
        clusters: (N,) cluster of each sample, from 0.
        seed: Draws the signs.

    Returns:
        K pieces of evidence.
    """
    rng = np.random.default_rng(seed)
    means, errors, largest = [], [], []
    for gain, known in zip(gains, tested, strict=True):
        sums, sizes = _totals(gain[:, known], clusters[known])
        mean, error = _studentised(sums, sizes)
        means.append(mean)
        errors.append(error)
        largest.append(_largest(sums, sizes, rng))
    mean, error = np.mean(means, axis=0), np.mean(errors, axis=0)
    t = _ratio(mean, error)
    above = np.max([(draws[:, None] >= t).sum(axis=0) for draws in largest], axis=0)
    p = (1 + above) / (1 + _DRAWS)
    return [Evidence(*map(float, row)) for row in zip(mean, error, p, strict=True)]


def _totals(gains: Floats, clusters: Ints) -> tuple[Floats, Floats]:
    """Sum gains (K, N) by cluster: (G, K), with the size of each (G,)."""
    present, place = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(present), len(gains)))
    np.add.at(sums, place, gains.T)
    return sums, np.bincount(place).astype(np.float64)


def _studentised(sums: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """Mean and cluster-robust standard error of each try, (K,) each."""
    count = len(sums)
    mean = sums.sum(axis=0) / sizes.sum()
    squares = np.sum((sums - sizes[:, None] * mean) ** 2, axis=0)
    return mean, np.sqrt(count / max(count - 1, 1) * squares) / sizes.sum()


def _largest(sums: Floats, sizes: Floats, rng: np.random.Generator) -> Floats:
    """Largest studentised gain over the tries under each draw of signs, (draws,)."""
    count, total = len(sums), sizes.sum()
    squares, weighted = np.sum(sums**2, axis=0), sums * sizes[:, None]
    found = []
    step = max(1, _CHUNK // count)
    for done in range(0, _DRAWS, step):
        signs = rng.integers(0, 2, size=(min(step, _DRAWS - done), count)) * 2.0 - 1.0
        mean = signs @ sums / total
        # sum of (sign x sum - size x mean)^2 over clusters, multiplied out
        spread = squares - 2 * mean * (signs @ weighted) + mean**2 * np.sum(sizes**2)
        error = np.sqrt(count / max(count - 1, 1) * np.maximum(spread, 0.0)) / total
        found.append(_ratio(mean, error).max(axis=1))
    return np.concatenate(found)


def _ratio(mean: Floats, error: Floats) -> Floats:
    """Mean over error; 0 where nothing is gained or lost, infinite where it is certain."""
    certain = np.select([mean > 1e-12, mean < -1e-12], [np.inf, -np.inf], 0.0)
    ratio: Floats = np.divide(mean, error, out=certain, where=error > 1e-9 * np.abs(mean))
    return ratio
