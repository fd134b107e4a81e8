"""``paper-*.json``: a table of the paper, filled as far as it was run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from resprune.setting import Setting
from tuner.results.schema import Comparison, Interval


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cell(_Row):
    """One method at one budget on one benchmark.

    Attributes:
        label: Its line.
        setting: What was run; None where nothing could be.
        budget: The budget.
        tokens: Visual tokens left in the end.
        cost: Those averaged over the decoder layers.
        notes: What differs from how it was published.
        score: Mean score.
        relative: In percent of the unpruned model's score, with the interval of the paired
            difference.
        versus_first: Minus the score of the table's first line at the budget.
        error: Why there is none.
    """

    label: str
    setting: Setting | None = None
    budget: str
    tokens: int | None = None
    cost: float | None = None
    notes: tuple[str, ...] = ()
    score: Interval | None = None
    relative: Interval | None = None
    versus_first: Comparison | None = None
    error: str | None = None


class Column(_Row):
    """One benchmark on one model.

    Attributes:
        model: The model.
        benchmark: The benchmark.
        samples: Questions.
        images: Images that they are about.
        unpruned: Score of the unpruned model.
        cells: Every line at every budget.
    """

    model: str
    benchmark: str
    samples: int
    images: int
    unpruned: Interval
    cells: list[Cell]


class PaperTable(_Row):
    """A table of the paper.

    Attributes:
        name: Name of the preset.
        table: Its name in the paper.
        title: What it shows.
        on: ``nano``, or ``weights``.
        columns: What was run.
    """

    name: str
    table: str
    title: str
    on: str
    columns: list[Column]
