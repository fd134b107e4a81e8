"""A comparison in words and tables: console, CSV, Markdown and one HTML page."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from resprune.budget import Budget
from tuner.output import wording
from tuner.output.comparing import across, heat
from tuner.output.plots import Plots
from tuner.output.templates import environment
from tuner.output.wording import Scale, policy_text
from tuner.output.writing import write_all
from tuner.results.compared import COMPARED_FILE, Basis, Compared, ComparedRow
from tuner.results.efficiency import Measured

CSV_FILE, MARKDOWN_FILE, PAGE_FILE = "compare.csv", "compare.md", "compare.html"
BASES: dict[Basis, str] = {"tokens": "equal tokens", "cost": "equal cost"}
HEADS = (
    "method",
    "left",
    "cost",
    "tuned",
    "of all tokens",
    "against the best",
    "as published",
    "against the best",
    "tuned, control wrong",
    "first token ms",
)
NOTE = (
    "Left: visual tokens of an image in the end; cost: those averaged over the language model's "
    "layers. Of all tokens: in percent of the unpruned model's score. Best leads its table on the "
    "tune split; win, tie and loss are said of the paired difference to it on the report split, of "
    "all methods of a table together (Holm, 95 %). A difference to the best of several is not "
    "flattered by having been picked on these samples. Each method was tuned with the same number "
    "of trials. Control wrong: samples that a method which knows nothing of the prompt answers "
    "wrongly at the budget (downsample, or pool where the tower's count is fixed). Intervals are "
    "95 % t intervals over images."
)


def tables(found: Compared) -> Iterator[tuple[Budget, Basis, str, list[ComparedRow]]]:
    """Yield each table: budget, basis, title and its tuned rows, the highest score first."""
    for budget in found.budgets:
        for basis, words in BASES.items():
            title = f"budget {budget}, {words}"
            yield budget, basis, title, found.table(budget, basis, "tuned")


def lines(found: Compared, rows: Sequence[ComparedRow]) -> list[list[str]]:
    """Return the cells of a table, a line a method; see ``HEADS``."""
    scale = Scale.of_metric(found.study["task"]["metric"])
    result = []
    for row in rows:
        (other,) = [
            each
            for each in found.table(row.budget, row.basis, "published")
            if each.method == row.method
        ]
        speed = measured(found, row)
        first = speed.first_token_ms if speed else None
        result.append(
            [
                row.label,
                "-" if row.tokens is None else str(row.tokens),
                "-" if row.cost is None else f"{row.cost:.1f}",
                _score(scale, row),
                _relative(row),
                _verdict(scale, row),
                _score(scale, other),
                _verdict(scale, other),
                "-"
                if row.wrong is None
                else f"{scale.number(row.wrong.mean)} {_wrong(scale, row)}",
                "-" if first is None else f"{first.median:.1f}",
            ]
        )
    return result


def takeaway(rows: Sequence[ComparedRow]) -> str:
    """Say in a sentence who leads a table, and how the others do against it."""
    best = next((row for row in rows if row.best), None)
    if best is None:
        return "No method could be scored."
    counts = Counter(row.verdict for row in rows if row.score and not row.best)
    words = (("win", "beat it"), ("tie", "cannot be told from it"), ("loss", "lose to it"))
    said = [f"{counts[key]} {text}" for key, text in words if counts[key]]
    unsaid = f"{counts['-']} have too few images for a verdict" if counts["-"] else ""
    others = ", ".join([*said, unsaid] if unsaid else said)
    return f"{best.label} leads on the tune split; on the report split {others or 'it is alone'}."


def measured(found: Compared, row: ComparedRow) -> Measured | None:
    """Return what was measured of a row's setting; None where nothing was."""
    if found.efficiency is None or row.setting is None:
        return None
    return next((m for m in found.efficiency.rows if m.policy == row.setting), None)


def reasons(found: Compared) -> list[str]:
    """Say once of each method and table why it has no score."""
    said: dict[str, list[str]] = {}
    for row in found.rows:
        if row.error is not None:
            where = f"{row.budget}, {BASES[row.basis]}"
            places = said.setdefault(f"{row.method}: {row.error}", [])
            if where not in places:
                places.append(where)
    whole = len(found.budgets) * len(BASES)
    return [
        text if len(places) == whole else f"{text} ({'; '.join(places)})"
        for text, places in said.items()
    ]


def controls(found: Compared) -> list[str]:
    """Say what the control gets wrong at each budget."""
    scale = Scale.of_metric(found.study["task"]["metric"])
    samples = found.splits["report"].samples
    return [
        f"Control at {each.budget}: {each.method} scores {scale.interval(each.score)} and gets "
        f"{each.samples:,} of {samples:,} samples wrong."
        for each in found.controls
    ]


def show_compared(found: Compared, run_dir: Path, console: Console) -> None:
    """Print the tables, and where the files are."""
    scale = Scale.of_metric(found.study["task"]["metric"])
    console.print(f"All tokens: {scale.interval(found.unpruned)} on the report split", markup=False)
    for _, _, title, rows in tables(found):
        table = Table(title=title, title_justify="left")
        for head in HEADS:
            table.add_column(head, justify="left" if head == "method" else "right")
        for name, *cells in lines(found, rows):
            table.add_row(name, *(cell.replace(" (", "\n(") for cell in cells))
        console.print(table, markup=False)
        console.print(takeaway(rows), markup=False, highlight=False)
    for text in (*controls(found), NOTE, *reasons(found)):
        console.print(text, markup=False, highlight=False)
    for name in (COMPARED_FILE, CSV_FILE, MARKDOWN_FILE, PAGE_FILE):
        console.print(run_dir / name, markup=False)


def write_compared(found: Compared, run_dir: Path) -> None:
    """Write JSON, CSV, Markdown and the page into a run folder; see ``write_all``."""
    write_all(
        run_dir,
        {
            COMPARED_FILE: found.model_dump(mode="json"),
            CSV_FILE: to_csv(found),
            MARKDOWN_FILE: to_markdown(found),
            PAGE_FILE: to_page(found),
        },
    )


def to_csv(found: Compared) -> str:
    """Return every row, flat."""
    out = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in found.rows:
        flat: dict[str, Any] = {
            "method": row.method,
            "notes": ", ".join(row.notes),
            "budget": str(row.budget),
            "basis": row.basis,
            "options": row.which,
            "setting": "" if row.setting is None else policy_text(row.setting),
            "tokens": row.tokens,
            "cost": row.cost,
            "tune_score": row.tune_score,
        }
        for name in ("score", "relative", "versus_best", "wrong", "wrong_versus_best"):
            one = getattr(row, name)
            for part in ("mean", "low", "high"):
                flat[f"{name}_{part}"] = None if one is None else getattr(one, part)
        speed = measured(found, row)
        times = speed.first_token_ms if speed else None
        ratio = speed.first_token if speed else None
        flat |= {
            "verdict": row.verdict if row.score else None,
            "first_token_ms": None if times is None else times.median,
            "first_token_speedup": None if ratio is None else ratio.ratio,
            "kv_bytes": None if speed is None else speed.kv_bytes,
            "prefill_flops": None if speed is None else speed.prefill_flops,
            "error": row.error,
        }
        if writer is None:
            writer = csv.DictWriter(out, list(flat), lineterminator="\n")
            writer.writeheader()
        writer.writerow({name: _plain(value) for name, value in flat.items()})
    return out.getvalue()


def to_markdown(found: Compared) -> str:
    """Return the tables as Markdown."""
    parts = []
    for _, _, title, rows in tables(found):
        parts += [f"### {title[0].upper()}{title[1:]}", "", takeaway(rows), ""]
        parts.append("| " + " | ".join(HEADS) + " |")
        parts.append("|---" + "|---:" * (len(HEADS) - 1) + "|")
        parts += ["| " + " | ".join(cells) + " |" for cells in lines(found, rows)]
        parts.append("")
    return "\n".join([*parts, *controls(found), "", *(f"- {text}" for text in reasons(found)), ""])


def to_page(found: Compared) -> str:
    """Return one HTML page that loads nothing."""
    scale = Scale.of_metric(found.study["task"]["metric"])
    figures = [
        (caption, across(found, scale, axis))
        for axis, caption in (
            ("tokens", "Score against visual tokens left in the end"),
            ("cost", "Score against cost: visual tokens averaged over the layers"),
            ("latency", "Score against the time to the first token"),
        )
        if axis != "latency" or found.efficiency is not None
    ]
    return (
        environment("compare.html.j2")
        .get_template("compare.html.j2")
        .render(
            found=found,
            scale=scale,
            study=found.study,
            unpruned=scale.interval(found.unpruned),
            heads=HEADS,
            tables=[
                (title, takeaway(rows), lines(found, rows), [row.verdict for row in rows])
                for _, _, title, rows in tables(found)
            ],
            figures=figures,
            by_type=[(str(budget), heat(found, scale, budget)) for budget in found.budgets],
            controls=controls(found),
            reasons=reasons(found),
            note=NOTE,
            device="" if found.efficiency is None else found.efficiency.device,
            duration=wording.duration(sum(found.seconds.values())),
            **Plots().script(),
        )
    )


def _score(scale: Scale, row: ComparedRow) -> str:
    if row.score is None:
        return "-"
    return f"{scale.number(row.score.mean)} ({scale.range(row.score)})"


def _relative(row: ComparedRow) -> str:
    one = row.relative
    return "-" if one is None else f"{one.mean:.1f} % ({one.low:.1f} to {one.high:.1f})"


def _verdict(scale: Scale, row: ComparedRow) -> str:
    if row.versus_best is None:
        return row.verdict
    return f"{scale.signed(row.versus_best.mean)} {row.verdict}"


def _wrong(scale: Scale, row: ComparedRow) -> str:
    one = row.wrong_versus_best
    return "best" if one is None else scale.signed(one.mean)


def _plain(value: Any) -> Any:
    """Round a number; a text that a spreadsheet would run as a formula is quoted."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, str) and value[:1] in "=+-@":
        return f"'{value}"
    return "" if value is None else value
