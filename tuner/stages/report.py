"""The report split: what was chosen, its bounds and the baselines, scored once at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from resprune.budget import Budget
from resprune.plan import Plan
from resprune.setting import Adaptive, Setting, fixed, unpruned
from tuner.results.rows import BASELINES, RowKind, name_of
from tuner.results.schema import AdaptiveRow, Comparison, Row
from tuner.results.statistics import Floats
from tuner.results.verdicts import Pair, judge
from tuner.stages.adaptive import Bounds, Fitted, bounds_of, chosen_arms
from tuner.stages.baselines import Named, Scored, score
from tuner.stages.opened import OpenedStudy
from tuner.stages.policies import plans_by_prompt

WHOLE = "all tokens"


@dataclass(frozen=True)
class Panel:
    """A policy to draw on the examples.

    Attributes:
        kind: Its row.
        settings: Setting used for each sample.
        plans: What it keeps of each, before the LLM.
    """

    kind: RowKind
    settings: Sequence[Setting]
    plans: Sequence[Plan]


@dataclass(frozen=True)
class Reported:
    """What the report split says.

    Attributes:
        rows: Every policy that was scored.
        adaptive: Adaptive policies that were adopted, against their bounds, by budget.
        panels: What to draw, by budget: the policy that is exported, and the paper's default.
    """

    rows: list[Row]
    adaptive: dict[Budget, AdaptiveRow]
    panels: dict[Budget, list[Panel]]


@dataclass(frozen=True)
class _ByPrompt:
    """An adaptive policy on the report split: its scores, chosen arms and bounds."""

    policy: Adaptive
    plans: Sequence[Plan]
    scores: Floats
    arms: list[int]
    outside: int
    bounds: Bounds


def report_split(
    opened: OpenedStudy,
    policies: Mapping[Budget, Sequence[Named]],
    best_fixed: Mapping[Budget, Named],
    fitted: Fitted | None,
) -> Reported:
    """Score what was chosen, its ablations and the baselines on the report split.

    Args:
        opened: The study.
        policies: By budget what serves every prompt alike; see ``fixed_policies``.
        best_fixed: The best of them on the tune split.
        fitted: The predictor of adaptive policies, or None.
    """
    split = opened.split("report")
    scored: list[Scored] = [("unpruned", unpruned(), split.score(unpruned()))]
    by_prompt: dict[Budget, _ByPrompt] = {}
    panels: dict[Budget, list[Panel]] = {}
    features = split.features() if fitted is not None and _adopted(fitted, policies) else None
    for budget, named in policies.items():
        scored += score(split, named, opened.seed)
        (setting,) = (setting for kind, setting in named if kind == "tuned")
        deployed = Panel("tuned", [setting] * len(split), split.plans([setting])[0])
        if fitted is not None and features is not None and fitted.gains(budget):
            policy = fitted.policies[budget]
            arms, outside = chosen_arms(fitted, budget, features, split.forms())
            plans = plans_by_prompt(split, policy, arms)
            scores = split.score_plans([plans])[0]
            scored.append(("adaptive", policy, scores))
            deployed = Panel("adaptive", [policy.arms[arm] for arm in arms.tolist()], plans)
            bounds = bounds_of(opened, fitted, budget, split.scores(policy.arms))
            by_prompt[budget] = _ByPrompt(policy, plans, scores, arms.tolist(), outside, bounds)
        paper = opened.paper(budget)
        default = Panel("paper-default", [paper] * len(split), split.plans([paper])[0])
        # what is left inside the LLM is known only there
        panels[budget] = [p for p in (deployed, default) if p.settings[0].inside is None]
    pairs = row_pairs(scored)
    for budget, each in by_prompt.items():
        pairs |= _adaptive_pairs(budget, each, best_fixed[budget], scored)
    judged = judge(pairs, opened.intervals("report"))
    plans_of: dict[Setting | Adaptive, Sequence[Plan]] = {
        each.policy: each.plans for each in by_prompt.values()
    }
    rows = [
        row.model_copy(
            update={"measures": split.measures(fixed(row.policy), plans_of.get(row.policy))}
        )
        for row in rows_of(opened, scored, judged)
    ]
    adaptive = {
        budget: _adaptive_row(opened, fitted, budget, each, judged)
        for budget, each in by_prompt.items()
        if fitted is not None
    }
    return Reported(rows, adaptive, panels)


def _adopted(fitted: Fitted, budgets: Mapping[Budget, object]) -> bool:
    return any(fitted.gains(budget) for budget in budgets)


# -- rows and what they are held against ------------------------------------------------------

Key = tuple[object, ...]
"""Of a row: ("row", its place, the place of what it is held against); of an adaptive policy:
("adaptive", budget, name of the difference)."""


def row_pairs(scored: Sequence[Scored]) -> dict[Key, Pair]:
    """Pair every policy with the unpruned model, and what was searched with every baseline.

    All baselines of the budget, so that the verdict on the strongest of them covers its choice.
    """
    whole = _whole(scored)
    pairs: dict[Key, Pair] = {}
    for i, (kind, policy, scores) in enumerate(scored):
        if i != whole:
            pairs["row", i, whole] = Pair(scores, scored[whole][2], WHOLE)
        if kind in ("rival", "tuned", "adaptive"):
            for j in _baselines(scored, policy.budget):
                other, its_policy, its_scores = scored[j]
                pairs["row", i, j] = Pair(scores, its_scores, name_of(other, its_policy.method))
    return pairs


def strongest(scored: Sequence[Scored], budget: Budget) -> int | None:
    """Return the place of the baseline of a budget with the highest mean; ties to the first."""
    places = _baselines(scored, budget)
    return max(places, key=lambda j: float(scored[j][2].mean())) if places else None


def _whole(scored: Sequence[Scored]) -> int:
    return next(i for i, (kind, _, _) in enumerate(scored) if kind == "unpruned")


def _baselines(scored: Sequence[Scored], budget: Budget) -> list[int]:
    return [
        j
        for j, (kind, policy, _) in enumerate(scored)
        if kind in BASELINES and policy.budget == budget
    ]


def rows_of(
    opened: OpenedStudy,
    scored: Sequence[Scored],
    judged: Mapping[Key, Comparison] | None = None,
    split: str = "report",
) -> list[Row]:
    """Turn scores into rows.

    Args:
        opened: The study.
        scored: Policies with their scores on one split, unpruned among them.
        judged: The comparisons of ``row_pairs``; None leaves them out.
        split: Name of the split.
    """
    intervals, judged = opened.intervals(split), judged or {}
    whole = _whole(scored)
    return [
        Row(
            kind=kind,
            policy=policy,
            tokens=None if kind == "unpruned" else opened.tokens(fixed(policy)),
            cost=None if kind == "unpruned" else opened.cost(fixed(policy)),
            notes=opened.notes(fixed(policy)),
            score=intervals.of(scores),
            versus_unpruned=judged.get(("row", i, whole)),
            versus_strongest=judged.get(("row", i, strongest(scored, policy.budget))),
            by_group=intervals.by_group(scores),
        )
        for i, (kind, policy, scores) in enumerate(scored)
    ]


def _adaptive_pairs(
    budget: Budget, each: _ByPrompt, best: Named, scored: Sequence[Scored]
) -> dict[Key, Pair]:
    kind, setting = best
    other = next(s for k, policy, s in scored if (k, policy) == (kind, setting))
    arm = "the best fixed arm"
    return {
        ("adaptive", budget, "best"): Pair(each.scores, other, name_of(kind, setting.method)),
        ("adaptive", budget, "fixed"): Pair(each.scores, each.bounds.fixed, arm),
        ("adaptive", budget, "group"): Pair(each.bounds.grouped, each.bounds.fixed, arm),
    }


def _adaptive_row(
    opened: OpenedStudy,
    fitted: Fitted,
    budget: Budget,
    each: _ByPrompt,
    judged: Mapping[Key, Comparison],
) -> AdaptiveRow:
    intervals, bounds, policy = opened.intervals("report"), each.bounds, each.policy
    return AdaptiveRow(
        policy=policy,
        tokens=opened.tokens(policy.arms[policy.fallback]),
        best_fixed=intervals.of(bounds.fixed),
        adaptive=intervals.of(each.scores),
        by_group_arm=bounds.by_group_arm,
        best_per_group=intervals.of(bounds.grouped),
        oracle=intervals.of(bounds.oracle),
        versus_best_fixed=judged["adaptive", budget, "best"],
        adaptive_minus_fixed=judged["adaptive", budget, "fixed"],
        group_minus_fixed=judged["adaptive", budget, "group"],
        oracle_minus_fixed=intervals.of(bounds.oracle, bounds.fixed),
        strength=fitted.fit.strengths[budget],
        outside=each.outside,
        chosen=np.bincount(each.arms, minlength=len(policy.arms)).tolist(),
    )


# -- in words ---------------------------------------------------------------------------------


def verdicts(reported: Reported, budgets: Sequence[Budget], fitted: Fitted | None) -> list[str]:
    """Say of each budget how what is exported does against the strongest baseline."""
    exported = {row.policy.budget: row for row in reported.rows if row.kind == "tuned"}
    exported |= {row.policy.budget: row for row in reported.rows if row.kind == "adaptive"}
    found = [
        f"{row.tokens} tokens: {name_of(row.kind, row.policy.method, row.notes)} scores "
        f"{_said(row.versus_strongest)}, the strongest baseline."
        for row in exported.values()
        if row.versus_strongest is not None
    ]
    found += [
        f"{row.tokens} tokens, chosen by prompt: {_said(row.versus_best_fixed)}, the best fixed "
        "policy on the tune split."
        for row in reported.adaptive.values()
    ]
    same = [budget for budget in budgets if budget not in reported.adaptive]
    if fitted is not None and same:
        found.append(
            "One setting serves all prompts at the budgets "
            + ", ".join(f"{b} ({fitted.fit.reasons.get(b, 'not fitted')})" for b in same)
            + "."
        )
    return found


def _said(one: Comparison) -> str:
    return (
        f"{one.mean:+.3f} (95 % interval {one.low:+.3f} to {one.high:+.3f}; {one.verdict}) "
        f"against {one.against}"
    )
