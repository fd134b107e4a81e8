"""What every study measures beside its trials: simple methods, ablations, the paper's default."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from resprune.budget import Budget
from resprune.errors import ConfigError, UnsupportedModelError
from resprune.plan import needs_of, signals_of
from resprune.setting import Adaptive, Setting
from tuner.results.rows import RowKind
from tuner.scoring.split import Split
from tuner.stages.opened import OpenedStudy

Floats = npt.NDArray[np.float64]
METHODS = ("l2_norm", "cls_attention", "divprune", "pool", "relevance")
"""Methods that are baselines with their own defaults, beside random tokens."""
RANDOM_DRAWS = 2
Named = tuple[RowKind, Setting]
"""Kind of row, and its setting."""
Scored = tuple[RowKind, Setting | Adaptive, Floats]
"""Kind of row, policy and its scores (N,) on one split."""


def fixed_policies(opened: OpenedStudy, chosen: Setting, rivals: Sequence[Setting]) -> list[Named]:
    """Return all that serves every prompt alike at one budget, in the order of ``KINDS``.

    Args:
        opened: The study.
        chosen: The setting chosen for the budget.
        rivals: The settings chosen of other methods; one of a baseline's method is that baseline.
    """
    own = [rival for rival in rivals if rival.method not in (*METHODS, "random")]
    return [
        *baselines(opened, chosen.budget, [chosen, *rivals]),
        *(("rival", rival) for rival in own),
        ("tuned", chosen),
    ]


def baselines(opened: OpenedStudy, budget: Budget, found: Sequence[Setting] = ()) -> list[Named]:
    """Return the baselines of one budget, as far as the model and the budget allow them.

    Args:
        opened: The study.
        budget: The budget.
        found: What the search chose of each method at this budget. It stands for the baseline of
            its method, which it is at least as good as; of ResPrune's setting alpha 0 and
            relevance alone are the ablations, without one those of the paper's default.

    Returns:
        In the order of ``KINDS``.
    """
    paper = opened.paper(budget)
    of_method = {setting.method: setting for setting in found}
    ours = of_method.get("resprune", paper)
    named: list[Named] = [("random", placed_as(ours, random_tokens(budget, opened.seed)))]
    for method in METHODS:
        setting, _ = baseline(opened, method, budget, ours)
        if setting is not None:
            named.append(("baseline", of_method.get(method, setting)))
    return [*named, ("alpha-0", ours.with_options(alpha=0.0)), ("paper-default", paper)]


def baseline(
    opened: OpenedStudy, method: str, budget: Budget, ours: Setting
) -> tuple[Setting | None, str]:
    """Return the baseline setting of a method, or None and why there is none.

    Args:
        opened: The study.
        method: One of ``METHODS``.
        budget: The budget.
        ours: ResPrune's setting, whose relevance, positions and later stage are used.
    """
    shared = {}
    if method == "relevance":
        shared["relevance"] = ours.options.relevance  # type: ignore[attr-defined]
    try:
        setting = placed_as(ours, Setting.of(method, budget, **shared))
        offered = opened.backbone.seed_signals
        opened.backbone.require_signals(signals_of(needs_of(setting), offered))
    except ConfigError:
        return None, f"does not take the budget {budget}"
    except UnsupportedModelError:
        return None, "needs a signal that the vision tower does not give"
    return setting, ""


def random_tokens(budget: Budget, seed: int) -> Setting:
    """Return the setting that keeps random tokens."""
    return Setting.of("random", budget, seed=seed)


def placed_as(ours: Setting, other: Setting) -> Setting:
    """Return a setting with another's positions and later stage."""
    return other.model_copy(update={"positions": ours.positions, "later": ours.later})


def score(split: Split, named: Sequence[Named], seed: int) -> list[Scored]:
    """Score settings on a split; random tokens by the mean of two draws a sample."""
    rows = iter(split.scores([setting for kind, setting in named if kind != "random"]))
    return [
        (kind, setting, random_scores(split, setting, seed))
        if kind == "random"
        else (kind, setting, next(rows))
        for kind, setting in named
    ]


def random_scores(split: Split, ours: Setting, seed: int) -> Floats:
    """Score random tokens, as many and placed as another setting's: (N,), the mean of two draws."""
    draws = [
        placed_as(ours, random_tokens(ours.budget, seed + draw)) for draw in range(RANDOM_DRAWS)
    ]
    mean: Floats = split.scores(draws).mean(axis=0)
    return mean
