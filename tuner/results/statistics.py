"""How sure a mean or a difference is: t intervals over images, and standard errors.

Questions about one image share its luck, so an image counts as one draw, never a question.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resprune.errors import ResPruneError
from tuner.results.schema import Interval

Floats = npt.NDArray[np.float64]
LEVEL = 0.95
SHARES = (0.0, 1.0)
"""Ends of scores that are shares, or right and wrong."""


class Images:
    """Which samples share an image.

    Args:
        labels: (N,) image of each sample: any labels that can be ordered.

    Attributes:
        sizes: (G,) samples of each image.
    """

    def __init__(self, labels: npt.ArrayLike) -> None:
        _, place, self.sizes = np.unique(
            np.asarray(labels), return_inverse=True, return_counts=True
        )
        self._order = np.argsort(place, kind="stable")
        self._starts = np.cumsum(self.sizes) - self.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def totals(self, values: Floats) -> Floats:
        """Return the sum of each image, shape (G,), of values (N,)."""
        return np.asarray(np.add.reduceat(values[self._order], self._starts), dtype=np.float64)


@dataclass(frozen=True)
class Estimate:
    """A mean, and how far it may be off.

    Attributes:
        mean: Of the samples.
        centre: Of the samples and the two made-up images.
        error: Standard error of the centre.
        freedom: Degrees of freedom of its t distribution.
        ends: What the mean can be at all.
    """

    mean: float
    centre: float
    error: float
    freedom: int
    ends: tuple[float, float]

    @property
    def interval(self) -> Interval:
        """The 95 % interval."""
        from scipy.special import stdtrit

        reach = float(stdtrit(self.freedom, (1 + LEVEL) / 2)) * self.error
        low, high = self.ends
        return Interval(
            mean=self.mean,
            low=max(low, self.centre - reach),
            high=min(high, self.centre + reach),
        )

    @property
    def p_value(self) -> float:
        """Of a mean of 0, two-sided."""
        from scipy.special import stdtr

        return float(2 * stdtr(self.freedom, -abs(self.centre) / self.error))


class Intervals:
    """95 % intervals over the images of one split.

    Args:
        images: Image of each of N samples.
        groups: Question type of each.
        ends: Least and greatest score there can be; infinite where there is none.

    Attributes:
        groups: Question type of each sample.
        images: Which samples share an image.
    """

    def __init__(
        self,
        images: Sequence[str],
        groups: Sequence[str] = (),
        *,
        ends: tuple[float, float] = SHARES,
    ) -> None:
        self.groups = list(groups)
        self.images = Images(images)
        self._ends = ends
        names, of_group = np.array(images), np.array(groups)
        self._rows = {group: np.flatnonzero(of_group == group) for group in sorted(set(groups))}
        self._images_of = {group: Images(names[rows]) for group, rows in self._rows.items()}

    def of(self, a: npt.ArrayLike, b: npt.ArrayLike | None = None) -> Interval:
        """Return the mean of ``a``, or of ``a - b``, with its interval."""
        return self.estimate(a, b).interval

    def estimate(self, a: npt.ArrayLike, b: npt.ArrayLike | None = None) -> Estimate:
        """Return the mean of ``a``, or of ``a - b``, and how far it may be off.

        Args:
            a: (N,) scores.
            b: (N,) scores of the same samples, or None.

        Raises:
            ResPruneError: Lengths differ, nothing to compare, or values not finite.
        """
        samples = int(self.images.sizes.sum())
        values = _differences(a, b, samples)
        return _estimate(values, self.images, paired=b is not None, ends=self._ends)

    def by_group(self, a: Floats) -> dict[str, Interval]:
        """Return the mean of each group with its interval."""
        return {
            group: _estimate(
                a[rows], self._images_of[group], paired=False, ends=self._ends
            ).interval
            for group, rows in self._rows.items()
        }


def mean_interval(
    a: npt.ArrayLike,
    b: npt.ArrayLike | None,
    images: npt.ArrayLike,
    *,
    ends: tuple[float, float] = SHARES,
) -> Interval:
    """Return the mean of ``a``, or of ``a - b``, with its 95 % interval over images.

    The t interval on the cluster-robust standard error with G - 1 degrees of freedom, after two
    made-up images of one question each have joined the G images: one that all is lost on, one that
    all is won on. Where one question an image was asked, this is the interval of Bonett and Price
    for paired proportions (J. Educ. Behav. Stat. 37, 2012) with t in place of the normal quantile;
    ``docs/explanation/evidence.md`` shows what it covers. It never has zero width.

    Args:
        a: (N,) scores.
        b: (N,) scores of the same samples, or None.
        images: (N,) image of each sample.
        ends: Least and greatest score there can be, which the interval keeps to. Where one is
            infinite, what is made up lies half a unit to either side of the mean, or one unit of
            no difference.

    Raises:
        ResPruneError: Lengths differ, nothing to compare, or values not finite.
    """
    labels = np.asarray(images)
    values = _differences(a, b, labels.size)
    return _estimate(values, Images(labels), paired=b is not None, ends=ends).interval


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
    labels = np.asarray(clusters)
    values = _differences(a, b, labels.size)
    images = Images(labels)
    if len(images) < 2:
        return 0.0
    return _robust(images.totals(values), images.sizes.astype(np.float64))[1]


def _estimate(
    values: Floats, images: Images, *, paired: bool, ends: tuple[float, float]
) -> Estimate:
    """Join the made-up images and estimate; see ``mean_interval``."""
    mean, (low, high) = float(values.mean()), ends
    if paired:
        low, high = low - high, high - low
    lost, won = low, high
    if not np.isfinite([low, high]).all():
        middle, reach = (0.0, 1.0) if paired else (mean, 0.5)
        lost, won = middle - reach, middle + reach
    sums = np.append(images.totals(values), [lost, won])
    centre, error = _robust(sums, np.append(images.sizes, [1.0, 1.0]))
    return Estimate(mean, centre, error, max(1, len(images) - 1), (low, high))


def _robust(sums: Floats, sizes: Floats) -> tuple[float, float]:
    """Return the mean over clusters, and its cluster-robust standard error."""
    count, samples = len(sums), sizes.sum()
    mean = sums.sum() / samples
    spread = count / (count - 1) * np.sum((sums - sizes * mean) ** 2)
    return float(mean), float(np.sqrt(spread) / samples)


def _differences(a: npt.ArrayLike, b: npt.ArrayLike | None, samples: int) -> Floats:
    values = np.asarray(a, dtype=np.float64)
    other = np.zeros_like(values) if b is None else np.asarray(b, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not values.shape == other.shape == (samples,):
        raise ResPruneError(
            f"paired comparison: scores of shape {values.shape} and {other.shape} with images of "
            f"shape {(samples,)}; give three lists of one length, at least 1"
        )
    difference = values - other
    if not np.isfinite(difference).all():
        raise ResPruneError("paired comparison: a score is not finite; drop or repair that sample")
    return difference


def relative(difference: Interval, whole: float) -> Interval | None:
    """Return a score in percent of the unpruned one.

    Args:
        difference: The score minus the unpruned one, paired.
        whole: Mean score of the unpruned model.

    Returns:
        The percentage; None where the unpruned model scores 0.
    """
    if whole <= 0:
        return None
    share = {key: 100 * (1 + value / whole) for key, value in difference.model_dump().items()}
    return Interval(**share)


def mean_of(each: Sequence[Interval]) -> Interval:
    """Return the mean of independent means, such as those of several tasks.

    Each side of its interval is the root of the sum of squares of theirs, over their number.

    Args:
        each: One or more.
    """
    mean = statistics.fmean(one.mean for one in each)
    low = math.hypot(*(one.mean - one.low for one in each)) / len(each)
    high = math.hypot(*(one.high - one.mean for one in each)) / len(each)
    return Interval(mean=mean, low=mean - low, high=mean + high)
