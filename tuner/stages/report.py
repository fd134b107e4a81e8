"""The report split: what was chosen before is scored once, with differences paired by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resprune.budget import Budget
from resprune.plan import Plan
from resprune.setting import Setting, unpruned
from tuner.results.rows import RowKind
from tuner.results.schema import AdaptiveRow, Interval, Row
from tuner.stages.adaptive import Fitted, adaptive_row, chosen_arms
from tuner.stages.baselines import Scored, random_scores, random_tokens, rows_of
from tuner.stages.opened import OpenedStudy
from tuner.stages.policies import plans_by_prompt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """A policy to draw on the examples.

    Attributes:
        kind: Its row.
        settings: Setting used for each sample.
        plans: What it keeps of each.
    """

    kind: RowKind
    settings: Sequence[Setting]
    plans: Sequence[Plan]


@dataclass(frozen=True)
class Reported:
    """What the report split says.

    Attributes:
        rows: Every policy that was scored.
        adaptive: Adaptive policies against their bounds, by budget.
        panels: What to draw, by budget: the policy that is exported, and the paper's default.
    """

    rows: list[Row]
    adaptive: dict[Budget, AdaptiveRow]
    panels: dict[Budget, list[Panel]]


def report_split(
    opened: OpenedStudy,
    chosen: Mapping[Budget, Setting],
    rivals: Mapping[Budget, Sequence[Setting]],
    fitted: Fitted | None,
) -> Reported:
    """Score what was chosen, its ablations and the baselines on the report split.

    Args:
        opened: The study.
        chosen: The setting chosen for each budget.
        rivals: The settings chosen of other methods for each budget.
        fitted: The predictor of adaptive policies, or None.
    """
    split, intervals = opened.split("report"), opened.intervals("report")
    scored: list[Scored] = [("unpruned", unpruned(), split.score(unpruned()))]
    adaptive: dict[Budget, AdaptiveRow] = {}
    panels: dict[Budget, list[Panel]] = {}
    features = split.features() if fitted is not None else None
    for budget, setting in chosen.items():
        scored += _fixed(opened, setting, rivals.get(budget, ()))
        paper = opened.paper(budget)
        deployed = Panel("tuned", [setting] * len(split), split.plans([setting])[0])
        if fitted is not None and features is not None and budget in fitted.policies:
            policy = fitted.policies[budget]
            arms = chosen_arms(fitted, budget, features)
            plans = plans_by_prompt(split, policy, arms)
            scores = split.score_plans([plans])[0]
            scored.append(("adaptive", policy, scores))
            if fitted.gains(budget):
                used = [policy.arms[arm] for arm in arms.tolist()]
                deployed = Panel("adaptive", used, plans)
            each = split.scores(policy.arms)
            adaptive[budget] = adaptive_row(opened, fitted, budget, arms, scores, each, intervals)
        default = Panel("paper-default", [paper] * len(split), split.plans([paper])[0])
        panels[budget] = [deployed, default]
    return Reported(rows_of(opened, scored, intervals), adaptive, panels)


def _fixed(opened: OpenedStudy, setting: Setting, rivals: Sequence[Setting]) -> list[Scored]:
    """Score a chosen setting, its ablations, its rivals and the baselines of its budget."""
    split, budget = opened.split("report"), setting.budget
    policies: list[tuple[RowKind, Setting]] = [
        *_ablations(setting),
        *(("rival", rival) for rival in rivals),
        ("paper-default", opened.paper(budget)),
        ("tuned", setting),
    ]
    random = random_scores(split, budget, opened.seed)
    scores = split.scores([policy for _, policy in policies])
    return [
        ("random", random_tokens(budget, opened.seed), random),
        *((kind, policy, row) for (kind, policy), row in zip(policies, scores, strict=True)),
    ]


def _ablations(setting: Setting) -> list[tuple[RowKind, Setting]]:
    """ResPrune without geometry and without relevance; of other methods none."""
    if setting.method != "resprune":
        return []
    relevance = Setting.of(
        "relevance",
        setting.budget,
        positions=setting.positions,
        relevance=setting.options.relevance,  # type: ignore[attr-defined]
    )
    return [("relevance-only", relevance), ("alpha-0", setting.with_options(alpha=0.0))]


def verdicts(rows: Sequence[Row], adaptive: Mapping[Budget, AdaptiveRow]) -> list[str]:
    """Say of each budget whether the winner won, or is within noise."""
    found = [
        f"{row.tokens} tokens: the tuned setting scores {_signed(row.versus_paper)} "
        f"against the paper's default: {_verdict(row.versus_paper)}."
        for row in rows
        if row.kind == "tuned" and row.versus_paper is not None
    ]
    for result in adaptive.values():
        if result.strength == 0:
            text = "cross-validation on the fit split found nothing to gain; one setting serves all"
        else:
            difference = result.adaptive_minus_fixed
            text = f"{_signed(difference)} against the best fixed setting: {_verdict(difference)}"
        found.append(f"{result.tokens} tokens, chosen by prompt: {text}.")
    return found


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.3f} (95 % interval {interval.low:+.3f} to {interval.high:+.3f})"


def _verdict(difference: Interval) -> str:
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "within noise"
