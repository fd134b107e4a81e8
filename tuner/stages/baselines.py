"""What every study measures beside its trials: unpruned, random, and the paper's default."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from resprune.budget import Budget
from resprune.setting import Adaptive, Setting, fixed, unpruned
from tuner.results.rows import RowKind
from tuner.results.schema import Row
from tuner.results.statistics import Intervals
from tuner.scoring.split import Split
from tuner.stages.opened import OpenedStudy

Floats = npt.NDArray[np.float64]
RANDOM_DRAWS = 2
Scored = tuple[RowKind, Setting | Adaptive, Floats]
"""Kind of row, policy and its scores (N,) on one split."""


def random_tokens(budget: Budget, seed: int) -> Setting:
    """Return the setting that keeps random tokens."""
    return Setting.of("random", budget, seed=seed)


def random_scores(split: Split, budget: Budget, seed: int) -> Floats:
    """Score random tokens, the mean of two draws a sample, shape (N,)."""
    draws = [random_tokens(budget, seed + draw) for draw in range(RANDOM_DRAWS)]
    mean: Floats = split.scores(draws).mean(axis=0)
    return mean


def baselines(opened: OpenedStudy, budgets: Sequence[Budget]) -> list[Scored]:
    """Score the baselines on the tune split: unpruned first, then two a budget."""
    tune = opened.split("tune")
    found: list[Scored] = [("unpruned", unpruned(), tune.score(unpruned()))]
    for budget in budgets:
        paper = opened.paper(budget)
        random = random_scores(tune, budget, opened.seed)
        found.append(("random", random_tokens(budget, opened.seed), random))
        found.append(("paper-default", paper, tune.score(paper)))
    return found


def rows_of(opened: OpenedStudy, scored: Sequence[Scored], intervals: Intervals) -> list[Row]:
    """Turn scores into rows with intervals, paired with unpruned and the paper's default."""
    whole = next(scores for kind, _, scores in scored if kind == "unpruned")
    paper = {policy.budget: scores for kind, policy, scores in scored if kind == "paper-default"}
    return [
        Row(
            kind=kind,
            policy=policy,
            tokens=None if kind == "unpruned" else opened.tokens(fixed(policy)),
            score=intervals.of(scores),
            versus_unpruned=None if kind == "unpruned" else intervals.of(scores, whole),
            versus_paper=(
                intervals.of(scores, paper[policy.budget])
                if policy.budget in paper and kind != "paper-default"
                else None
            ),
            by_group=intervals.by_group(scores),
        )
        for kind, policy, scores in scored
    ]
