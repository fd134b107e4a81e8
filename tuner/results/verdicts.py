"""Verdicts on differences: all those of a report are judged together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tuner.results.schema import Comparison, Verdict
from tuner.results.statistics import LEVEL, Floats, Intervals

LEAST_IMAGES = 20
"""Fewer images than this get no verdict."""
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two policies on the same samples.

    Attributes:
        scores: Of the one that is judged, shape (N,).
        other: Of the one it is held against, shape (N,).
        against: Readable name of the latter.
    """

    scores: Floats
    other: Floats
    against: str


def judge(pairs: Mapping[_Key, Pair], intervals: Intervals) -> dict[_Key, Comparison]:
    """Judge all differences of a report together.

    Better and worse are said by Holm's step-down procedure (Scand. J. Stat. 6, 1979) over the
    two-sided t tests of all pairs: in 95 of 100 reports none of these words is wrong, however the
    pairs depend on one another. A pair may be picked by its scores afterwards, such as that with
    the strongest of several baselines, if all it was picked from were judged.

    Args:
        pairs: Every pair of the report, by any key.
        intervals: Of the split that was scored.

    Returns:
        The comparison of each key. Its interval is the plain 95 % one.
    """
    found = {key: intervals.estimate(pair.scores, pair.other) for key, pair in pairs.items()}
    sure = holm(np.array([each.p_value for each in found.values()]))
    few = len(intervals.images) < LEAST_IMAGES
    result = {}
    for (key, each), certain in zip(found.items(), sure, strict=True):
        verdict: Verdict = "within noise"
        if few:
            verdict = "too few images"
        elif certain:
            verdict = "better" if each.centre > 0 else "worse"
        result[key] = Comparison(
            **each.interval.model_dump(), against=pairs[key].against, verdict=verdict
        )
    return result


def holm(p_values: Floats) -> list[bool]:
    """Say which hypotheses Holm's procedure rejects at 5 % over all together."""
    order = np.argsort(p_values, kind="stable")
    left = np.arange(len(order), 0, -1)
    passed = np.logical_and.accumulate(p_values[order] <= (1 - LEVEL) / left)
    rejected = np.zeros(len(order), dtype=bool)
    rejected[order] = passed
    return [bool(each) for each in rejected]
