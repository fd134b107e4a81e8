"""Objectives: what a study looks for. One class each, found by the name in ``kind``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from resprune.budget import Budget
from resprune.certificate import Claim, Scale, TestName
from resprune.validation import StrictModel
from tuner.scoring.metrics import Metric

Direction = Literal["minimize", "maximize"]


class Tuned(NamedTuple):
    """What a recommendation rests on.

    Attributes:
        scores: Deployed policy's mean tune score by cost: visual tokens averaged over the samples
            and, inside the LLM, over its layers.
        unpruned: The unpruned model's.
        metric: The study's.
        certified: Costs whose claim was certified.
        names: What a cost is called where it is not the count of tokens kept.
    """

    scores: Mapping[float, float]
    unpruned: float
    metric: Metric
    certified: Collection[float] = ()
    names: Mapping[float, str] = MappingProxyType({})

    def name(self, cost: float) -> str:
        """Say a cost within a sentence."""
        return self.names.get(cost, f"{cost:g} tokens")


class _Objective(StrictModel):
    """What a trial's values are, which budget is recommended, and what is claimed of it.

    Attributes:
        confidence: Of the certificate: how seldom, at most 1 time in 1 / (1 - confidence), a false
            claim is certified.
        test: How the claim is tested; ``auto`` takes ``exact`` where it fits, else ``betting``.
        clip: Where a metric without a least value is cut off for the claim, in its own units.
    """

    directions: ClassVar[tuple[Direction, ...]]
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    test: Literal["auto"] | TestName = "auto"
    clip: float | None = Field(default=None, lt=0.0)

    @abstractmethod
    def claim(self, metric: Metric) -> Claim | None:
        """Return what is claimed of policies, tested on the certify split; None for nothing."""

    def _claim(self, loss: float, scale: Scale, metric: Metric) -> Claim | None:
        """Claim a loss; of a metric without a least value (log-likelihood) in its own units."""
        if not 0 < loss < 1:
            return None  # nothing that a test could show
        return Claim(
            loss=loss, confidence=self.confidence, scale=scale if metric.bounded else "absolute"
        )

    @abstractmethod
    def values(self, score: float, cost: float) -> list[float]:
        """Return the values that Optuna is told of a trial: of its mean score and its cost."""

    def floor(self, unpruned: float, metric: Metric) -> float | None:
        """Return the mean score that trials must reach, None where there is none."""
        return None

    @abstractmethod
    def recommend(self, tuned: Tuned) -> tuple[float | None, str]:
        """Recommend one of the budgets.

        Args:
            tuned: What is known by now.

        Returns:
            Its cost, None for all tokens, and a sentence that says why.
        """


class Certified(_Objective):
    """The fewest tokens whose loss is certified, else all of them.

    Attributes:
        kind: ``certified``.
        loss: How far the mean score may fall, exclusive: 0.02 is two points.
        scale: ``absolute``, or ``relative``: a share of the unpruned score.
    """

    directions: ClassVar[tuple[Direction, ...]] = ("maximize", "minimize")
    kind: Literal["certified"] = "certified"
    loss: float = Field(default=0.02, gt=0.0, lt=1.0)
    scale: Scale = "absolute"

    def values(self, score: float, cost: float) -> list[float]:
        """Score and cost."""
        return [score, cost]

    def claim(self, metric: Metric) -> Claim | None:
        """Its own."""
        return self._claim(self.loss, self.scale, metric)

    def recommend(self, tuned: Tuned) -> tuple[float | None, str]:
        """The fewest certified tokens, else all."""
        if not tuned.certified:
            return None, "No budget could be certified, so all tokens are recommended."
        fewest = min(tuned.certified)
        return fewest, f"{tuned.name(fewest)} is the smallest certified budget."


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

    def claim(self, metric: Metric) -> Claim | None:
        """The tolerance, a share of the unpruned score."""
        return self._claim(self.tolerance, "relative", metric)

    def values(self, score: float, cost: float) -> list[float]:
        """Score and cost."""
        return [score, cost]

    def recommend(self, tuned: Tuned) -> tuple[float | None, str]:
        """The fewest tokens within the tolerance, else the knee."""
        floor = tuned.metric.floor(tuned.unpruned, self.tolerance)
        found = _fewest(tuned, floor, self.tolerance)
        if found is not None:
            return found
        chosen = _knee(tuned.scores)
        return chosen, (
            f"No budget is within {self.tolerance:.1%} of the unpruned tune score "
            f"{tuned.unpruned:.3f}; {tuned.name(chosen)}, the knee of the front, "
            "breaks that tolerance."
        )


class FixedBudget(_Objective):
    """The best score at one budget.

    Attributes:
        kind: ``fixed-budget``.
        budget: What each image keeps.
        loss: Claimed of it, where there is a certify split: how far the mean score falls at most.
    """

    directions: ClassVar[tuple[Direction, ...]] = ("maximize",)
    kind: Literal["fixed-budget"]
    budget: Budget
    loss: float = Field(default=0.02, gt=0.0, lt=1.0)

    def claim(self, metric: Metric) -> Claim | None:
        """Its loss."""
        return self._claim(self.loss, "absolute", metric)

    def values(self, score: float, cost: float) -> list[float]:
        """The score."""
        return [score]

    def recommend(self, tuned: Tuned) -> tuple[float | None, str]:
        """Its own."""
        (only,) = tuned.scores
        return only, f"{tuned.name(only)} is the budget that the study fixed."


class QualityFloor(_Objective):
    """The fewest tokens that keep a share of the unpruned score.

    Attributes:
        kind: ``quality-floor``.
        keep: The share (for log-likelihood: ``1 - keep`` nats may be lost).
    """

    directions: ClassVar[tuple[Direction, ...]] = ("minimize",)
    kind: Literal["quality-floor"]
    keep: float = Field(gt=0.0, le=1.0)

    def claim(self, metric: Metric) -> Claim | None:
        """That the share is kept."""
        return self._claim(round(1 - self.keep, 9), "relative", metric)

    def values(self, score: float, cost: float) -> list[float]:
        """The cost."""
        return [cost]

    def floor(self, unpruned: float, metric: Metric) -> float:
        """What must be kept of the unpruned score."""
        return metric.floor(unpruned, 1 - self.keep)

    def recommend(self, tuned: Tuned) -> tuple[float | None, str]:
        """The fewest tokens that meet the floor, else the most."""
        floor = self.floor(tuned.unpruned, tuned.metric)
        found = _fewest(tuned, floor, 1 - self.keep)
        if found is not None:
            return found
        most = max(tuned.scores)
        return most, (
            f"No budget meets the quality floor {floor:.3f}; {tuned.name(most)}, which comes "
            f"nearest with {tuned.scores[most]:.3f}, breaks it. Add larger budgets to the search."
        )


Objective = Annotated[Certified | Pareto | FixedBudget | QualityFloor, Field(discriminator="kind")]
KINDS = ("certified", "pareto", "fixed-budget", "quality-floor")


def _fewest(tuned: Tuned, floor: float, lost: float) -> tuple[float, str] | None:
    scores = tuned.scores
    meeting = [cost for cost in sorted(scores) if scores[cost] >= floor]
    if not meeting:
        return None
    return meeting[0], (
        f"{tuned.name(meeting[0])} is the smallest budget whose tune score "
        f"{scores[meeting[0]]:.3f} is at least {floor:.3f}, {lost:.1%} below the unpruned "
        f"{tuned.unpruned:.3f}."
    )


def _knee(scores: Mapping[float, float]) -> float:
    budgets = sorted(scores)
    if len(budgets) < 3:
        return budgets[-1]
    x = np.log(np.array(budgets, dtype=np.float64))
    y = np.array([scores[budget] for budget in budgets])
    height = max(float(y[-1] - y[0]), 1e-12)
    above = (y - y[0]) / height - (x - x[0]) / (x[-1] - x[0])
    return budgets[int(np.argmax(above))]
