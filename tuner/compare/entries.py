"""What each method enters the comparison with: as published and tuned, at equal tokens and cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from resprune import methods
from resprune.budget import Budget
from resprune.cost import count_for_cost
from resprune.errors import ResPruneError
from resprune.setting import Setting
from tuner.results.compared import Basis, Which
from tuner.search.choose import Candidate, choose_setting
from tuner.stages.opened import OpenedStudy

FAILURES = (ResPruneError, RuntimeError, ValueError, NotImplementedError)
"""What a method may fail with; out of memory is among them."""
BASES: tuple[Basis, ...] = ("tokens", "cost")
KINDS: tuple[Which, ...] = ("tuned", "published")


@dataclass(frozen=True)
class Entry:
    """One row of the comparison before the report split.

    Attributes:
        method: The method.
        budget: The budget of its table.
        basis: What is equal there.
        which: Its options.
        setting: What will be scored, or None.
        tune_score: Mean score on the tune split.
        error: Why there is none.
    """

    method: str
    budget: Budget
    basis: Basis
    which: Which
    setting: Setting | None = None
    tune_score: float | None = None
    error: str | None = None


def published(opened: OpenedStudy, method: str, budget: Budget) -> Setting:
    """Return a method's setting as published, with the positions that the study tries first."""
    if method == "resprune":
        return opened.paper(budget)
    return Setting.of(method, budget, positions=opened.spaces[method].positions[0])


def entries_of(
    opened: OpenedStudy, method: str, budget: Budget, tried: Sequence[Setting]
) -> list[Entry]:
    """Return the four rows of a method at a budget.

    At equal cost a method inside the LLM leaves as many tokens as make it run on no more visual
    tokens a layer than the budget; the options that its trials drew are tried anew there.

    Args:
        opened: The study.
        method: The method.
        budget: The budget.
        tried: Settings that its trials drew at this budget.
    """
    own = published(opened, method, budget)
    inside = methods.get(method).stage == "layers"
    found = []
    for basis in BASES if inside else BASES[:1]:
        found += _two(opened, method, budget, basis, own, tried)
    if not inside:
        found += [replace(entry, basis="cost") for entry in found]
    return found


def _two(
    opened: OpenedStudy,
    method: str,
    budget: Budget,
    basis: Basis,
    own: Setting,
    tried: Iterable[Setting],
) -> list[Entry]:
    """Return a method as published and tuned, on one basis."""
    place = (method, budget, basis)
    settings, reasons = {}, {}
    for setting in dict.fromkeys((own, *tried)):
        try:
            settings[setting] = at_cost(opened, setting) if basis == "cost" else setting
        except ResPruneError as error:
            reasons[setting] = str(error)
    if not settings:
        return _both(method, budget, basis, reasons[own])
    try:
        scored = opened.split("tune").scores(list(settings.values()))
    except FAILURES as error:
        return _both(method, budget, basis, reason_of(error))
    candidates = dict(zip(settings, map(Candidate, settings.values(), scored), strict=True))
    best = choose_setting(list(candidates.values()))
    rows = [Entry(*place, "tuned", best.setting, float(best.scores.mean()))]
    if own in candidates:
        as_is = candidates[own]
        return [Entry(*place, "published", as_is.setting, float(as_is.scores.mean())), *rows]
    return [Entry(*place, "published", error=reasons[own]), *rows]


def at_cost(opened: OpenedStudy, setting: Setting) -> Setting:
    """Return a setting inside the LLM that costs what its budget keeps of tokens before the LLM.

    Args:
        opened: The study.
        setting: The setting.

    Raises:
        ResPruneError: It runs on more visual tokens a layer whatever it leaves.
    """
    tokens = opened.backbone.visual_tokens
    if tokens is None:
        tune = opened.split("tune")
        images = (image for i in range(len(tune)) for image in tune.visuals(i))
        tokens = round(statistics.mean(len(image.tokens) for image in images))
    mean = setting.budget.limit(tokens)
    return setting.at(
        count_for_cost(setting.method, setting.options, tokens, opened.bench.depth, mean)
    )


def failed(method: str, budgets: Iterable[Budget], reason: str) -> list[Entry]:
    """Return the rows of a method that could not be tried at all."""
    return [
        entry
        for budget in budgets
        for basis in BASES
        for entry in _both(method, budget, basis, reason)
    ]


def _both(method: str, budget: Budget, basis: Basis, reason: str) -> list[Entry]:
    return [Entry(method, budget, basis, which, error=reason) for which in KINDS]


def reason_of(error: Exception) -> str:
    """Return the first line of an error."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
