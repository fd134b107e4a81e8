"""Medians with their spread, and paired ratios with their interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuner.results.efficiency import Speedup, Spread
from tuner.results.statistics import LEVEL

LEAST_ROUNDS = 6
"""Fewer pairs give no 95 % interval of a median: 2 * 0.5^5 is over 0.05."""


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of measurements."""
    low, median, high = np.quantile(np.asarray(values), (0.25, 0.5, 0.75)).tolist()
    return Spread(median=median, low=low, high=high)


def speedup(whole: Sequence[float], pruned: Sequence[float]) -> Speedup:
    """Return how many times faster the pruned calls are.

    The interval is that of the sign test, between two order statistics of the ratios: it holds
    whatever their distribution, so that a round that other work of the machine disturbs does no
    harm.

    Args:
        whole: Times of the unpruned model, one a round; ``LEAST_ROUNDS`` or more.
        pruned: Times of the policy in the same rounds.

    Returns:
        The median ratio and its interval, of at least 95 %.
    """
    from scipy.stats import binom

    ratios = np.sort(np.asarray(whole) / np.asarray(pruned))
    outside = int(binom.ppf((1 - LEVEL) / 2, len(ratios), 0.5))  # P(X < outside) <= 2.5 %
    low, high = ratios[outside - 1], ratios[len(ratios) - outside]
    return Speedup(ratio=float(np.median(ratios)), low=float(low), high=float(high))
