"""``surrogate.json``: how well what a plan keeps tells what its answer is worth."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tuner.results.schema import Interval, ModelInfo, SplitInfo

SURROGATE_FILE = "surrogate.json"
SURROGATE_SCHEMA = 1
Outcome = Literal["log-likelihood", "correctness"]
OUTCOMES: tuple[Outcome, ...] = ("log-likelihood", "correctness")


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Correlation(_Row):
    """One measure against one outcome; Spearman's rho, over 0 where the measure does as hoped.

    Attributes:
        measure: A key of ``tuner.surrogate.measures.NAMES``; residuals with their sign turned.
        outcome: What it is held against.
        plans: Budget of the plans, ``all budgets``, or ``resprune`` and the budget for those that
            ResPrune's options alone tell apart.
        within: Mean over samples of rho over a sample's own plans; None where it cannot be said.
        samples: How many samples that mean is over: those whose outcomes differ.
        overall: Rho over all plans of all samples.
        difference: ``within`` minus that of the best baseline measure, paired by sample; of forms
            of the surrogate.
        baseline: That measure.
    """

    measure: str
    outcome: Outcome
    plans: str
    within: Interval | None
    samples: int
    overall: Interval | None
    difference: Interval | None = None
    baseline: str | None = None


class Surrogate(_Row):
    """Everything the table and the figure are made from.

    Attributes:
        study: The study.
        model: The model.
        environment: Versions and the machine.
        split: The samples.
        budgets: Budgets by their mean count of tokens kept, the largest first.
        plans: Plans a budget and sample, those that keep the same counted once, on average.
        score: Mean correctness of the plans of each budget.
        rows: The correlations.
        prefills: Rows that went through the LLM.
    """

    schema_version: int = SURROGATE_SCHEMA
    study: dict[str, Any]
    model: ModelInfo
    environment: dict[str, str]
    split: SplitInfo
    budgets: list[int]
    plans: dict[int, float]
    score: dict[int, float]
    rows: list[Correlation]
    prefills: int

    def of(self, measure: str, outcome: Outcome, plans: str) -> Correlation:
        """Return one correlation."""
        keys = (measure, outcome, plans)
        return next(r for r in self.rows if (r.measure, r.outcome, r.plans) == keys)
