"""Which plans are compared: a seeded spread of good and bad ones at one budget."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from resprune.budget import Count, Ratio
from resprune.errors import UnsupportedModelError
from resprune.plan import needs_of, signals_of
from resprune.setting import Setting
from tuner.stages.baselines import random_tokens
from tuner.stages.opened import OpenedStudy

METHODS = ("l2_norm", "divprune", "relevance", "uniform", "cdpruner", "cls_attention", "scope")
"""Methods that are compared at their own defaults: they keep tokens as they are, merging none."""


def spread(opened: OpenedStudy, budget: Count | Ratio, count: int, seed: int) -> list[Setting]:
    """Draw settings at one budget: in turn a rival, a ResPrune setting and random tokens.

    Args:
        opened: The study.
        budget: The budget.
        count: How many settings; fewer where there are no more.
        seed: Draws ResPrune's settings and the random tokens, the same at every budget.

    Returns:
        ``count`` settings that differ, the paper's default among them.
    """
    turns: list[Iterator[Setting]] = [
        _rivals(opened, budget),
        _resprune(opened, budget, seed),
        (random_tokens(budget, seed + draw) for draw in range(count)),
    ]
    rounds = itertools.zip_longest(*turns)
    found = (setting for each in rounds for setting in each if setting is not None)
    return list(itertools.islice(dict.fromkeys(found), count))


def _rivals(opened: OpenedStudy, budget: Count | Ratio) -> Iterator[Setting]:
    """Yield the rivals that the vision tower gives the signals for."""
    for method in METHODS:
        setting = Setting.of(method, budget)
        try:
            opened.backbone.require_signals(
                signals_of(needs_of(setting), opened.backbone.seed_signals)
            )
        except UnsupportedModelError:
            continue
        yield setting


def _resprune(opened: OpenedStudy, budget: Count | Ratio, seed: int) -> Iterator[Setting]:
    """Yield the paper's default, pure geometry, then alphas and seed strategies in drawn order."""
    paper = opened.paper(budget)
    yield paper
    yield paper.with_options(alpha=0.0)
    strategies = (*opened.backbone.seed_signals, "l2_norm", "relevance")
    rest = list(itertools.product(opened.study.alpha.grid, strategies))
    for place in np.random.default_rng(seed).permutation(len(rest)):
        alpha, strategy = rest[place]
        yield paper.with_options(alpha=alpha, seed_strategy=strategy)
