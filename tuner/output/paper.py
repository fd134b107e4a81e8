"""Tables of the paper in the console and as Markdown."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from tuner.output.wording import Scale
from tuner.output.writing import write_all
from tuner.paper.preset import Preset, load_preset
from tuner.results.paper import Cell, Column, PaperTable

HEADS = ("line", "kept", "cost", "score", "% of unpruned", "against the first line", "paper, %")


def show_paper(found: PaperTable, console: Console) -> None:
    """Print a filled table."""
    preset = load_preset(found.name)
    heads = HEADS if found.on == "weights" else HEADS[:-1]
    for column in found.columns:
        title = f"Table {found.table}, {column.model}, {column.benchmark}: {found.title}"
        table = Table(title=title, title_justify="left")
        for head in heads:
            table.add_column(head, justify="left" if head == "line" else "right")
        for cells in lines(column, preset):
            table.add_row(*cells[: len(heads)])
        console.print(table, markup=False)
        console.print(_under(column), markup=False, highlight=False)
    console.print(preset.known, markup=False, highlight=False)


def write_paper(found: PaperTable, folder: Path) -> list[Path]:
    """Write a table as JSON and Markdown; see ``write_all``."""
    stem = f"paper-{found.name}-{found.on}"
    files = {f"{stem}.json": found.model_dump(mode="json"), f"{stem}.md": to_markdown(found)}
    return write_all(folder, files)


def to_markdown(found: PaperTable) -> str:
    """Return a filled table as Markdown, with what is known of the paper's own."""
    preset = load_preset(found.name)
    heads = HEADS if found.on == "weights" else HEADS[:-1]
    parts = [] if found.on == "weights" else [weights_markdown(preset, found.name), ""]
    for column in found.columns:
        parts += [f"**{column.model}, {column.benchmark}.** {_under(column)}", ""]
        parts.append("| " + " | ".join(heads) + " |")
        parts.append("|---" + "|---:" * (len(heads) - 1) + "|")
        parts += [f"| {' | '.join(cells[: len(heads)])} |" for cells in lines(column, preset)]
        parts.append("")
    return "\n".join(parts)


def weights_markdown(preset: Preset, name: str) -> str:
    """Say of released weights what fills the table, and which figures of the paper are known."""
    figures = [
        f"{row.label} at {budget} tokens {value:g} %"
        for row in preset.rows
        for budget, value in row.paper.items()
    ]
    said = f"Released weights: not run here; `resprune-tune paper {name}` fills every cell."
    if not figures:
        return said
    known = "The paper's own figures, means over its benchmarks, as far as they are known: "
    return f"{said} {known}{'; '.join(figures)}."


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
