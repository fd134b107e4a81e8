"""``compare.json``: methods side by side at equal tokens and at equal cost."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from resprune.budget import Budget
from resprune.setting import Setting
from tuner.results.efficiency import Efficiency
from tuner.results.schema import Comparison, Interval, ModelInfo, SplitInfo

COMPARED_FILE = "compare.json"
COMPARED_SCHEMA = 1
Basis = Literal["tokens", "cost"]
"""What is equal: visual tokens left in the end, or those averaged over the decoder layers."""
Which = Literal["tuned", "published"]
"""Options tuned on the tune split, or the method's own."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ComparedRow(_Row):
    """A method in one table; scores are those of the report split.

    Attributes:
        method: The method.
        budget: The budget of the table.
        basis: What is equal in the table.
        which: Its options.
        setting: What was scored; None where nothing could be.
        tokens: Mean count of visual tokens left in the end.
        cost: Those averaged over the decoder layers.
        notes: What differs from how it was published.
        tune_score: Mean score on the tune split.
        score: Score on the report split.
        relative: That in percent of the unpruned model's; None where it scores 0, or the metric
            has no zero.
        best: Whether it is the one of its table that leads on the tune split.
        versus_best: Minus the score of that one.
        wrong: Score on the samples that the control gets wrong.
        wrong_versus_best: The same there.
        by_group: Score by question type.
        error: Why there is no score.
    """

    method: str
    budget: Budget
    basis: Basis
    which: Which
    setting: Setting | None = None
    tokens: int | None = None
    cost: float | None = None
    notes: tuple[str, ...] = ()
    tune_score: float | None = None
    score: Interval | None = None
    relative: Interval | None = None
    best: bool = False
    versus_best: Comparison | None = None
    wrong: Interval | None = None
    wrong_versus_best: Comparison | None = None
    by_group: dict[str, Interval] = {}
    error: str | None = None

    @property
    def label(self) -> str:
        """Its name in tables, with its notes."""
        return f"{self.method} ({', '.join(self.notes)})" if self.notes else self.method

    @property
    def verdict(self) -> str:
        """``best``, ``win``, ``tie`` or ``loss`` against it; ``-`` where it cannot be said."""
        if self.best:
            return "best"
        words = {"better": "win", "worse": "loss", "within noise": "tie"}
        return words.get(self.versus_best.verdict, "-") if self.versus_best else "-"


class Control(_Row):
    """Samples of the report split that a simple method gets wrong at a budget.

    Attributes:
        budget: The budget.
        method: The simple method.
        score: Its score on all samples.
        samples: How many it gets wrong.
    """

    budget: Budget
    method: str
    score: Interval
    samples: int


class Compared(_Row):
    """Everything the tables and the page are made from.

    Attributes:
        study: The study as it ran.
        model: The model.
        environment: Versions and the machine.
        splits: Which samples the tune and the report split held.
        report_openings: Which look at the report split this was.
        groups: Question types.
        unpruned: Score of the unpruned model on the report split.
        unpruned_by_group: The same by question type.
        controls: What the control gets wrong, one a budget.
        rows: Every method, budget, basis and kind of options.
        efficiency: Speed and memory of what was scored; None where nothing was measured.
        seconds: What it took, by stage.
        prefills: Rows that went through the LLM.
    """

    schema_version: int = COMPARED_SCHEMA
    study: dict[str, Any]
    model: ModelInfo
    environment: dict[str, str]
    splits: dict[Literal["tune", "report"], SplitInfo]
    report_openings: int
    groups: list[str]
    unpruned: Interval
    unpruned_by_group: dict[str, Interval]
    controls: list[Control]
    rows: list[ComparedRow]
    efficiency: Efficiency | None
    seconds: dict[str, float]
    prefills: int

    def table(self, budget: Budget, basis: Basis, which: Which) -> list[ComparedRow]:
        """Return the rows of one table, the highest score first, rows without one at the end."""
        rows = [r for r in self.rows if (r.budget, r.basis, r.which) == (budget, basis, which)]
        return sorted(rows, key=lambda row: -row.score.mean if row.score else float("inf"))

    @property
    def budgets(self) -> list[Budget]:
        """The budgets, in order."""
        return list(dict.fromkeys(row.budget for row in self.rows))
