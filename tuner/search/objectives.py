"""Objectives: what a study looks for. One class each, found by the name in ``kind``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from resprune.budget import Budget
from resprune.validation import StrictModel
from tuner.scoring.metrics import Metric

Direction = Literal["minimize", "maximize"]


class _Objective(StrictModel):
    """What a trial's values are, and which budget is recommended."""

    directions: ClassVar[tuple[Direction, ...]]

    @abstractmethod
    def values(self, score: float, tokens: int) -> list[float]:
        """Return the values that Optuna is told of a trial."""

    def floor(self, unpruned: float, metric: Metric) -> float | None:
        """Return the mean score that trials must reach, None where there is none."""
        return None

    @abstractmethod
    def recommend(
        self, scores: Mapping[int, float], unpruned: float, metric: Metric
    ) -> tuple[int, str]:
        """Recommend one of the budgets.

        Args:
            scores: Chosen setting's mean tune score by mean count of tokens.
            unpruned: The unpruned model's.
            metric: The study's.

        Returns:
            The count, and a sentence that says why.
        """


class Pareto(_Objective):
    """Score against kept tokens.

    Recommended are the fewest tokens whose tune score is within the tolerance of unpruned, else the
    knee: farthest above the line between the ends of the front, tokens on a log scale.

    Attributes:
        kind: ``pareto``.
        tolerance: How far below the unpruned tune score the recommended budget may be, as a share
            of that score (for log-likelihood: nats).
    """

    directions: ClassVar[tuple[Direction, ...]] = ("maximize", "minimize")
    kind: Literal["pareto"] = "pareto"
    tolerance: float = Field(default=0.02, ge=0.0, le=1.0)

    def values(self, score: float, tokens: int) -> list[float]:
        """Score and tokens."""
        return [score, float(tokens)]

    def recommend(
        self, scores: Mapping[int, float], unpruned: float, metric: Metric
    ) -> tuple[int, str]:
        """The fewest tokens within the tolerance, else the knee."""
        floor = metric.floor(unpruned, self.tolerance)
        found = _fewest(scores, floor, self.tolerance, unpruned)
        if found is not None:
            return found
        chosen = _knee(scores)
        return chosen, (
            f"No budget is within {self.tolerance:.1%} of the unpruned tune score {unpruned:.3f}; "
            f"{chosen} tokens is the knee of the front."
        )


class FixedBudget(_Objective):
    """The best score at one budget.

    Attributes:
        kind: ``fixed-budget``.
        budget: What each image keeps.
    """

    directions: ClassVar[tuple[Direction, ...]] = ("maximize",)
    kind: Literal["fixed-budget"]
    budget: Budget

    def values(self, score: float, tokens: int) -> list[float]:
        """The score."""
        return [score]

    def recommend(
        self, scores: Mapping[int, float], unpruned: float, metric: Metric
    ) -> tuple[int, str]:
        """Its own."""
        (only,) = scores
        return only, f"{only} tokens is the budget that the study fixed."


class QualityFloor(_Objective):
    """The fewest tokens that keep a share of the unpruned score.

    Attributes:
        kind: ``quality-floor``.
        keep: The share (for log-likelihood: ``1 - keep`` nats may be lost).
    """

    directions: ClassVar[tuple[Direction, ...]] = ("minimize",)
    kind: Literal["quality-floor"]
    keep: float = Field(gt=0.0, le=1.0)

    def values(self, score: float, tokens: int) -> list[float]:
        """The tokens."""
        return [float(tokens)]

    def floor(self, unpruned: float, metric: Metric) -> float:
        """What must be kept of the unpruned score."""
        return metric.floor(unpruned, 1 - self.keep)

    def recommend(
        self, scores: Mapping[int, float], unpruned: float, metric: Metric
    ) -> tuple[int, str]:
        """The fewest tokens that meet the floor, else the most."""
        floor = self.floor(unpruned, metric)
        found = _fewest(scores, floor, 1 - self.keep, unpruned)
        if found is not None:
            return found
        most = max(scores)
        return most, (
            f"No budget meets the quality floor {floor:.3f}; {most} tokens comes nearest "
            f"with {scores[most]:.3f}. Add larger budgets to the search."
        )


Objective = Annotated[Pareto | FixedBudget | QualityFloor, Field(discriminator="kind")]
KINDS = ("pareto", "fixed-budget", "quality-floor")


def _fewest(
    scores: Mapping[int, float], floor: float, lost: float, unpruned: float
) -> tuple[int, str] | None:
    meeting = [tokens for tokens in sorted(scores) if scores[tokens] >= floor]
    if not meeting:
        return None
    return meeting[0], (
        f"{meeting[0]} tokens is the smallest budget whose tune score {scores[meeting[0]]:.3f} "
        f"is at least {floor:.3f}, {lost:.1%} below the unpruned {unpruned:.3f}."
    )


def _knee(scores: Mapping[int, float]) -> int:
    budgets = sorted(scores)
    if len(budgets) < 3:
        return budgets[-1]
    x = np.log(np.array(budgets, dtype=np.float64))
    y = np.array([scores[budget] for budget in budgets])
    height = max(float(y[-1] - y[0]), 1e-12)
    above = (y - y[0]) / height - (x - x[0]) / (x[-1] - x[0])
    return budgets[int(np.argmax(above))]
