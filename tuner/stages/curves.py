"""Curves: the score over the values of one option around a chosen setting, all else equal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from resprune.options import searchable
from resprune.setting import Setting
from tuner.results.schema import Curve
from tuner.results.statistics import standard_error
from tuner.scoring.split import Split
from tuner.search.choose import Candidate
from tuner.search.section import Range, WholeRange
from tuner.stages.opened import OpenedStudy

Floats = npt.NDArray[np.float64]
_POINTS = 9  # of a curve whose values the study does not list


def curves(opened: OpenedStudy, chosen: Sequence[Setting]) -> tuple[list[Candidate], list[Curve]]:
    """Score the curves around chosen settings on the tune split.

    Args:
        opened: The study.
        chosen: Settings, one a budget.

    Returns:
        The curves' points, which are candidates too, and the curves: one for each option of a
        setting's method that is marked so.
    """
    tune = opened.split("tune")
    points: list[Candidate] = []
    found = []
    for setting in chosen:
        for option, values in curved(opened, setting).items():
            settings = [setting.with_options(**{option: value}) for value in values]
            scores = tune.scores(settings)
            points += map(Candidate, settings, scores)
            found.append(curve_of(opened, tune, setting, option, values, scores))
    return points, found


def curved(opened: OpenedStudy, setting: Setting) -> dict[str, list[float]]:
    """Return the options of a setting that have a curve, with their values."""
    found = {}
    ranges = opened.study.search.options.get(setting.method, {})
    for name, search in searchable(type(setting.options)).items():
        values = ranges.get(name)
        if (
            not search.curve
            or values is None
            or (not isinstance(values, Range) and len(values) < 2)
        ):
            continue  # fixed by the study
        if name == "alpha":
            found[name] = list(opened.study.alpha.grid)
        elif isinstance(values, WholeRange):
            every = range(values.low, values.high + 1, values.step)
            found[name] = [*every[:: math.ceil(len(every) / _POINTS)]]
        elif isinstance(values, Range):
            found[name] = np.linspace(values.low, values.high, _POINTS).round(6).tolist()
        else:
            found[name] = sorted(v for v in values if not isinstance(v, str))
    return found


def curve_of(
    opened: OpenedStudy,
    split: Split,
    setting: Setting,
    option: str,
    values: Sequence[float],
    scores: Floats,
) -> Curve:
    """Make a curve of scores, shape (V, N)."""
    return Curve(
        setting=setting,
        option=option,
        tokens=opened.tokens(setting),
        split=split.name,
        values=list(values),
        scores=[float(row.mean()) for row in scores],
        standard_errors=[standard_error(row, None, split.images) for row in scores],
    )
