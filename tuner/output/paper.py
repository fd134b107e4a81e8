"""Tables of the paper in the console and as Markdown."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from resprune.errors import StudyError
from resprune.files import write_json, write_text
from tuner.output.wording import Scale
from tuner.paper.preset import Preset, load_preset
from tuner.results.paper import Cell, Column, PaperTable

HEADS = ("line", "kept", "cost", "score", "% of unpruned", "against the first line", "paper, %")
NOT_RUN = "not run here"


def show_paper(found: PaperTable, console: Console) -> None:
    """Print a filled table."""
    preset = load_preset(found.name)
    for column in found.columns:
        title = f"Table {found.table}, {column.model}, {column.benchmark}: {found.title}"
        table = Table(title=title, title_justify="left")
        for head in HEADS:
            table.add_column(head, justify="left" if head == "line" else "right")
        for cells in lines(column, preset):
            table.add_row(*cells)
        console.print(table, markup=False)
        console.print(_under(column), markup=False, highlight=False)
    for name, reason in found.missing.items():
        console.print(f"{name}: no task yet: {reason}", markup=False, highlight=False)


def write_paper(found: PaperTable, folder: Path) -> list[Path]:
    """Write a table as JSON and Markdown, beside and renamed.

    Raises:
        StudyError: The folder cannot be written.
    """
    stem = f"paper-{found.name}-{found.on}"
    paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(paths[0], found.model_dump(mode="json"))
        write_text(paths[1], to_markdown(found))
    except OSError as error:
        raise StudyError(f"{folder}: cannot be written ({error.strerror})") from error
    return paths


def to_markdown(found: PaperTable) -> str:
    """Return a filled table as Markdown."""
    preset, parts = load_preset(found.name), list[str]()
    for column in found.columns:
        parts += [f"**{column.model}, {column.benchmark}.** {_under(column)}", ""]
        parts.append("| " + " | ".join(HEADS[:-1]) + " |")
        parts.append("|---" + "|---:" * (len(HEADS) - 2) + "|")
        parts += ["| " + " | ".join(cells[:-1]) + " |" for cells in lines(column, preset)]
        parts.append("")
    return "\n".join(parts)


def weights_markdown(preset: Preset, name: str) -> str:
    """Return the table of released weights: what is known of the paper, and what fills the rest."""
    parts = [f"Filled by `resprune-tune paper {name}`; {NOT_RUN} in every cell."]
    figures = [
        f"{row.label} at {budget} tokens {value:g} %"
        for row in preset.rows
        for budget, value in row.paper.items()
    ]
    if figures:
        parts.append(
            "The paper's own figures, means over its benchmarks, as far as they are known: "
            + "; ".join(figures)
            + "."
        )
    return " ".join(parts)


def lines(column: Column, preset: Preset) -> list[list[str]]:
    """Return the cells of a column; see ``HEADS``."""
    scale = Scale.of_metric("score")
    paper = {row.label: row.paper for row in preset.rows}
    return [_cells(cell, scale, paper.get(cell.label, {})) for cell in column.cells]


def _cells(cell: Cell, scale: Scale, paper: dict[str, float]) -> list[str]:
    label = f"{cell.label} ({', '.join(cell.notes)})" if cell.notes else cell.label
    if cell.score is None or cell.relative is None:
        return [label, cell.budget, "-", "-", "-", cell.error or "-", "-"]
    one = cell.versus_first
    against = "-" if one is None else f"{scale.signed(one.mean)}, {one.verdict}"
    relative = cell.relative
    known = paper.get(cell.budget)
    return [
        label,
        str(cell.tokens),
        f"{cell.cost:.1f}",
        f"{scale.number(cell.score.mean)} ({scale.range(cell.score)})",
        f"{relative.mean:.1f} ({relative.low:.1f} to {relative.high:.1f})",
        against,
        "-" if known is None else f"{known:g}",
    ]


def _under(column: Column) -> str:
    scale = Scale.of_metric("score")
    return (
        f"Unpruned {scale.interval(column.unpruned)}; {column.samples:,} questions about "
        f"{column.images:,} images."
    )
