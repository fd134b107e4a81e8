"""Adaptive policies: outcomes of the arms on the fit split, and the predictor fitted on them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resprune.budget import Budget
from resprune.errors import StudyError
from resprune.options import searchable
from resprune.setting import Adaptive, Setting
from tuner.alpha.fit import AlphaFit, fit_alpha
from tuner.results.schema import AdaptiveRow, Curve
from tuner.results.statistics import Intervals
from tuner.scoring.metrics import LEAST_LOG_LIKELIHOOD
from tuner.search.section import Range
from tuner.stages.curves import curve_of
from tuner.stages.opened import OpenedStudy

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fitted:
    """A fitted predictor with what it was fitted on.

    Attributes:
        fit: The predictor, with its cross-validation.
        policies: The arms by budget; the fallback is the best arm of the fit split.
        scores: Scores of the arms on the fit split by budget, shape (A, M).
    """

    fit: AlphaFit
    policies: dict[Budget, Adaptive]
    scores: dict[Budget, Floats]

    def gains(self, budget: Budget) -> bool:
        """Say whether choosing by prompt gained in cross-validation."""
        return self.fit.strengths.get(budget, 0.0) > 0


def fit_adaptive(opened: OpenedStudy, chosen: Mapping[Budget, Setting]) -> Fitted | None:
    """Fit the predictor over the arms of each chosen setting.

    Returns:
        None where no chosen setting's method has the options that vary by prompt.
    """
    study, split, metric = opened.study, opened.split("fit"), opened.bench.metric
    wanted = study.alpha.budgets or tuple(chosen)
    budgets = [b for b in chosen if b in wanted and varies(chosen[b], study.adaptive.vary)]
    if not budgets:
        return None
    arms = arm_values(opened, chosen[budgets[0]].method)
    scores: dict[Budget, Floats] = {}
    smooth: dict[Budget, Floats] = {}
    labelled = all(sample.answers for sample in split.samples)
    for budget in budgets:
        plans = split.plans([chosen[budget].with_options(**values) for values in arms])
        scores[budget] = split.score_plans(plans)
        if labelled and metric.name == "score":
            chances = split.first_token_likelihoods(plans)
            smooth[budget] = -np.maximum(chances, LEAST_LOG_LIKELIHOOD).T
    opened.progress.stage("alpha predictor")
    fit = fit_alpha(
        split.features(),
        {budget: metric.losses(table).T for budget, table in scores.items()},
        arms,
        split.images,
        seed=opened.seed,
        surrogate=smooth or None,
    )
    policies = {
        budget: Adaptive(
            arms=tuple(chosen[budget].with_options(**values) for values in arms),
            fallback=fit.predictor.fallback(budget),
        )
        for budget in budgets
    }
    return Fitted(fit, policies, scores)


def varies(setting: Setting, options: Sequence[str]) -> bool:
    """Say whether a setting's method lets all these options vary by prompt."""
    known = searchable(type(setting.options))
    return all(name in known and known[name].per_prompt for name in options)


def arm_values(opened: OpenedStudy, method: str) -> list[dict[str, float | str]]:
    """Return the per-prompt option values of each arm.

    Every combination: of alpha the grid, of other options what the study lists.
    """
    study = opened.study
    lists: list[list[float | str]] = []
    for name in study.adaptive.vary:
        values = study.search.options[method].get(name, ())
        if name != "alpha" and isinstance(values, Range):
            raise StudyError(
                f"adaptive.vary: {name!r} is searched over a range; list its values in "
                f"[search.{method}]"
            )
        lists.append(
            list(study.alpha.grid) if isinstance(values, Range) or name == "alpha" else [*values]
        )
    return [
        dict(zip(study.adaptive.vary, values, strict=True)) for values in itertools.product(*lists)
    ]


def fit_curves(opened: OpenedStudy, fitted: Fitted) -> list[Curve]:
    """Return the alpha curves of the fit split, one for each value of what else varies."""
    split, grid = opened.split("fit"), opened.study.alpha.grid
    found = []
    for budget, policy in fitted.policies.items():
        groups: dict[Setting, list[int]] = defaultdict(list)
        for i, arm in enumerate(policy.arms):
            groups[arm.with_options(alpha=0.0)].append(i)
        for rows in groups.values():
            scores = fitted.scores[budget][rows]
            found.append(curve_of(opened, split, policy.arms[rows[0]], "alpha", grid, scores))
    return found


def chosen_arms(fitted: Fitted, budget: Budget, features: Floats) -> Ints:
    """Return the arm that the predictor chooses for each row of features (N, F), shape (N,)."""
    return fitted.fit.predictor.arms_for(features, budget)


def adaptive_row(
    opened: OpenedStudy,
    fitted: Fitted,
    budget: Budget,
    arms: Ints,
    adaptive: Floats,
    report_scores: Floats,
    intervals: Intervals,
) -> AdaptiveRow:
    """Compare an adaptive policy with its bounds at one budget.

    The fallback and the groups' best arms are chosen on the fit split, which the predictor learnt
    from too, and scored on the report split; the oracle looks at the answers.

    Args:
        opened: The study.
        fitted: The predictor.
        budget: The budget.
        arms: Arm the predictor chose for each report sample, shape (N,).
        adaptive: Score of each report sample under it, shape (N,).
        report_scores: Scores of every arm on the report split, shape (A, N).
        intervals: Of the report split.
    """
    policy, fit_scores = fitted.policies[budget], fitted.scores[budget]
    fixed = report_scores[policy.fallback]
    by_group: dict[str, int] = {}
    grouped = fixed.copy()
    fit_groups, report_groups = np.array(opened.split("fit").groups), np.array(intervals.groups)
    for group in sorted(set(intervals.groups)):
        known = fit_groups == group
        best = int(fit_scores[:, known].mean(axis=1).argmax()) if known.any() else policy.fallback
        by_group[group] = best
        rows = report_groups == group
        grouped[rows] = report_scores[best][rows]
    oracle = report_scores.max(axis=0)
    return AdaptiveRow(
        policy=policy,
        tokens=opened.tokens(policy.arms[policy.fallback]),
        best_fixed=intervals.of(fixed),
        adaptive=intervals.of(adaptive),
        by_group_arm=by_group,
        best_per_group=intervals.of(grouped),
        oracle=intervals.of(oracle),
        adaptive_minus_fixed=intervals.of(adaptive, fixed),
        group_minus_fixed=intervals.of(grouped, fixed),
        oracle_minus_fixed=intervals.of(oracle, fixed),
        strength=fitted.fit.strengths[budget],
        chosen=np.bincount(arms, minlength=len(policy.arms)).tolist(),
    )
