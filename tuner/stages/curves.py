"""Curves: the score over the values of one option, all else equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from resprune.budget import Budget
from resprune.setting import Setting
from tuner.results.schema import Curve
from tuner.results.statistics import standard_error
from tuner.scoring.split import Split
from tuner.search.choose import Candidate
from tuner.stages.opened import OpenedStudy

Floats = npt.NDArray[np.float64]


def curves(
    opened: OpenedStudy, budgets: Sequence[Budget]
) -> tuple[dict[Budget, list[Candidate]], list[Curve]]:
    """Score the alpha grid under every seed strategy; its points are candidates too."""
    tune, grid = opened.split("tune"), opened.study.alpha.grid
    candidates: dict[Budget, list[Candidate]] = {budget: [] for budget in budgets}
    found = []
    space = opened.spaces.get("resprune")
    strategies = opened.study.search.options["resprune"]["seed_strategy"] if space else ()
    for strategy in strategies:
        bases = [space.base(budget).with_options(seed_strategy=strategy) for budget in budgets]
        settings = [base.with_options(alpha=alpha) for base in bases for alpha in grid]
        tables = tune.scores(settings).reshape(len(budgets), len(grid), len(tune))
        for budget, base, table in zip(budgets, bases, tables, strict=True):
            found.append(curve_of(opened, tune, base, "alpha", grid, table))
            candidates[budget] += [
                Candidate(base.with_options(alpha=alpha), scores)
                for alpha, scores in zip(grid, table, strict=True)
            ]
    return candidates, found


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
