"""A comparison over several tasks in words and tables: console, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tuner.output.compared import BASES
from tuner.output.writing import write_all
from tuner.results.across import ACROSS_FILE, Across, AcrossRow
from tuner.results.schema import Interval

CSV_FILE, MARKDOWN_FILE = "across.csv", "across.md"
NOTE = (
    "Scores in percent of the unpruned model's on the same questions; the mean is over the tasks, "
    "each counted once. Intervals are 95 % t intervals over images, that of the mean as if the "
    "tasks were independent. No verdict is said of the means."
)


def show_across(found: Across, folder: Path, console: Console) -> None:
    """Print the tables, and where the files are."""
    for title, rows in tables(found):
        table = Table(title=title, title_justify="left")
        for head in heads(found):
            table.add_column(head, justify="left" if head == "method" else "right")
        for row in rows:
            name, *cells = cells_of(row)
            table.add_row(name, *(cell.replace(" (", "\n(") for cell in cells))
        console.print(table, markup=False)
    console.print(NOTE, markup=False, highlight=False)
    for name in (ACROSS_FILE, CSV_FILE, MARKDOWN_FILE):
        console.print(folder / name, markup=False)


def write_across(found: Across, folder: Path) -> None:
    """Write JSON, CSV and Markdown into a folder; see ``write_all``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_all(
        folder,
        {
            ACROSS_FILE: found.model_dump(mode="json"),
            CSV_FILE: to_csv(found),
            MARKDOWN_FILE: to_markdown(found),
        },
    )


def tables(found: Across) -> Iterator[tuple[str, list[AcrossRow]]]:
    """Yield the title and the rows of each table of tuned options."""
    for budget in found.budgets:
        for basis, words in BASES.items():
            yield f"budget {budget}, {words}", found.table(budget, basis, "tuned")


def heads(found: Across) -> list[str]:
    """Return the heads of a table."""
    return ["method", "mean relative score", *found.unpruned]


def cells_of(row: AcrossRow) -> list[str]:
    """Return the cells of a row."""
    return [row.method, *map(_percent, (row.mean, *row.tasks.values()))]


def to_csv(found: Across) -> str:
    """Return every row, flat."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = [f"{name}_{part}" for name in ("mean", *found.unpruned) for part in ("", "low", "high")]
    columns = [name.rstrip("_") for name in parts]
    writer.writerow(["method", "budget", "basis", "options", *columns])
    for row in found.rows:
        numbers = [
            "" if one is None else round(value, 6)
            for one in (row.mean, *row.tasks.values())
            for value in ((0.0,) * 3 if one is None else (one.mean, one.low, one.high))
        ]
        writer.writerow([row.method, str(row.budget), row.basis, row.which, *numbers])
    return out.getvalue()


def to_markdown(found: Across) -> str:
    """Return the tables as Markdown."""
    parts = []
    for title, rows in tables(found):
        names = heads(found)
        parts += [f"### {title[0].upper()}{title[1:]}", "", "| " + " | ".join(names) + " |"]
        parts += ["|---" + "|---:" * (len(names) - 1) + "|"]
        parts += ["| " + " | ".join(cells_of(row)) + " |" for row in rows]
        parts.append("")
    return "\n".join([*parts, NOTE, ""])


def _percent(one: Interval | None) -> str:
    return "-" if one is None else f"{one.mean:.1f} % ({one.low:.1f} to {one.high:.1f})"
