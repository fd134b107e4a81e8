"""``across.json``: methods compared over several tasks, by their mean relative score."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from resprune.budget import Budget
from resprune.errors import StudyError
from tuner.results.compared import Basis, Compared, Which
from tuner.results.schema import Interval
from tuner.results.statistics import mean_of

ACROSS_FILE = "across.json"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AcrossRow(_Row):
    """A method in one table.

    Attributes:
        method: The method.
        budget: The budget.
        basis: What is equal in the table.
        which: Its options.
        tasks: Its score on each task in percent of the unpruned model's; None without a score.
        mean: Their mean; None where one is missing.
    """

    method: str
    budget: Budget
    basis: Basis
    which: Which
    tasks: dict[str, Interval | None]
    mean: Interval | None


class Across(_Row):
    """Comparisons on several tasks side by side.

    Attributes:
        model: The model.
        unpruned: The unpruned model's score by task.
        rows: Every method, budget, basis and kind of options.
    """

    model: str
    unpruned: dict[str, Interval]
    rows: list[AcrossRow]

    @property
    def budgets(self) -> list[Budget]:
        """The budgets, in order."""
        return list(dict.fromkeys(row.budget for row in self.rows))

    def table(self, budget: Budget, basis: Basis, which: Which) -> list[AcrossRow]:
        """Return the rows of one table, the highest mean first, rows without one at the end."""
        rows = [r for r in self.rows if (r.budget, r.basis, r.which) == (budget, basis, which)]
        return sorted(rows, key=lambda row: -row.mean.mean if row.mean else float("inf"))


def across(found: Sequence[Compared]) -> Across:
    """Put comparisons on several tasks side by side.

    Args:
        found: One a task, of one model at the same budgets.

    Raises:
        StudyError: Another model or other budgets; or two studies of one name.
    """
    first = found[0]
    names = [each.study["study"]["name"] for each in found]
    for name, each in zip(names, found, strict=True):
        for what, own, other in (
            ("model", each.model.id, first.model.id),
            ("budgets", list(map(str, each.budgets)), list(map(str, first.budgets))),
        ):
            if own != other:
                raise StudyError(
                    f"{name}: {what} {own}, and {names[0]} has {other}; a mean over tasks is of "
                    "one model at the same budgets"
                )
    if len(set(names)) < len(names):
        raise StudyError(f"{names}: a study is named twice; keep each once")
    rows = []
    for row in first.rows:
        key = (row.method, row.budget, row.basis, row.which)
        tasks = {
            name: next(
                (r.relative for r in each.rows if (r.method, r.budget, r.basis, r.which) == key),
                None,
            )
            for name, each in zip(names, found, strict=True)
        }
        scores = [one for one in tasks.values() if one is not None]
        mean = mean_of(scores) if len(scores) == len(tasks) else None
        rows.append(
            AcrossRow(
                method=row.method,
                budget=row.budget,
                basis=row.basis,
                which=row.which,
                tasks=tasks,
                mean=mean,
            )
        )
    unpruned = {name: each.unpruned for name, each in zip(names, found, strict=True)}
    return Across(model=first.model.id, unpruned=unpruned, rows=rows)
