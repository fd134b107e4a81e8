"""Choosing a setting of one budget, on the tune split alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resprune.options import path_of, searchable
from resprune.setting import Setting
from resprune.validation import without

Floats = npt.NDArray[np.float64]
REACH = 1 / 8
"""Share of a number's range within which settings lend each other their scores."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A setting with its scores on the tune split, shape (N,)."""

    setting: Setting
    scores: Floats


def choose_setting(candidates: Sequence[Candidate]) -> Candidate:
    """Choose the setting of one budget.

    The best of many tries owes part of its lead to luck, which its neighbours do not share. So each
    mean score is averaged with those of settings that differ in numbers alone, with weights that
    fall from 1 to 0 over an eighth of a number's range, and the best average of a method is taken
    (kernel regression: Nadaraya 1964, Watson 1964). Among methods, of which some have no numbers,
    the own mean of what was taken decides. Ties go to the higher mean, then to the candidate named
    first.

    Args:
        candidates: At least one, scored on the same N samples.

    Returns:
        The chosen one.
    """
    unique = list({candidate.setting: candidate for candidate in candidates}.values())
    means = np.array([float(candidate.scores.mean()) for candidate in unique])
    places = [_Place.of(candidate.setting) for candidate in unique]
    weights = np.array([[one.nearness(other) for other in places] for one in places])
    averages = (weights @ means / weights.sum(axis=1)).round(12)
    best = {
        unique[i].setting.method: i
        for i in sorted(range(len(unique)), key=lambda i: (averages[i], means[i], -i))
    }
    return unique[max(best.values(), key=lambda i: (means[i], -i))]


@dataclass(frozen=True)
class _Place:
    """Where a setting stands: what must be equal, and its numbers in units of `REACH`."""

    rest: dict[str, Any]
    numbers: tuple[float, ...]

    @classmethod
    def of(cls, setting: Setting) -> _Place:
        ranges = {
            name: (search.low, search.high)
            for name, search in searchable(type(setting.options)).items()
            if search.low is not None
            and search.high is not None
            and isinstance(setting.option(name), int | float)
        }
        numbers = (
            float(setting.option(name)) / (REACH * (high - low))
            for name, (low, high) in ranges.items()
        )
        places = [("options", *path_of(type(setting.options), name)) for name in ranges]
        return cls(without(setting.model_dump(), places), tuple(numbers))

    def nearness(self, other: _Place) -> float:
        """Weight of the other in this one's average, 1 for itself."""
        if self.rest != other.rest:
            return 0.0
        apart = zip(self.numbers, other.numbers, strict=True)
        return math.prod(max(0.0, 1.0 - abs(a - b)) for a, b in apart)
