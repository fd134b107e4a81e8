"""What ``resprune-tune data check`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tuner.output.wording import duration

if TYPE_CHECKING:
    from tuner.data_check import DataCheck, Spread

_SHOWN = 40


def show_data_check(found: DataCheck, console: Console) -> None:
    """Print what a check found: counts, samples, images, splits, then all that is wrong."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    say(f"{found.source}")
    rows = ", ".join(f"{name} {count:,}" for name, count in found.rows.items())
    say(f"rows: {rows}; {found.answers:,} with an answer")
    if len(found.groups) > 1:
        say("groups: " + ", ".join(f"{name} {n:,}" for name, n in sorted(found.groups.items())))
    for sample in found.samples:
        answer = " | ".join(sample.answers) or "no answer"
        say(f"  {sample.id} ({', '.join(sample.images)}): {sample.prompt!r} -> {answer}")
    if found.images is not None:
        images = found.images
        say(
            f"images: {images.count:,}; width {_spread(images.width)}, height "
            f"{_spread(images.height)}; {_counts(images.formats)}; {_counts(images.modes)}"
        )
        if images.tokens is not None:
            say(f"visual tokens an image: {_spread(images.tokens)}")
        if images.animated or images.turned:
            say(f"animated, first frame taken: {images.animated:,}; turned: {images.turned:,}")
    for note in found.notes:
        say(note)
    if found.parts:
        _show_parts(found, console)
    if found.duplicates:
        say(f"the same picture under several names: {len(found.duplicates):,}")
        for names in found.duplicates[:_SHOWN]:
            say(f"  {', '.join(names)}")
    for warning in found.warnings:
        say(f"look at: {warning}")
    if found.problems:
        say(f"problems: {len(found.problems):,}")
        for problem in found.problems[:_SHOWN]:
            say(f"  {problem}")
        if len(found.problems) > _SHOWN:
            say(f"  and {len(found.problems) - _SHOWN:,} more; --json has them all")
    else:
        say("no problems")


def _show_parts(found: DataCheck, console: Console) -> None:
    table = Table(title="Splits", title_justify="left")
    heads = ["split", "questions", "images", "an image", "could prove a loss below"]
    costs = any(part.passes is not None for part in found.parts)
    for head in (*heads, *(("passes at most", "time here") if costs else ())):
        table.add_column(head, justify="left" if head == "split" else "right")
    for part in found.parts:
        least = (
            "nothing" if part.smallest_loss is None else f"{100 * part.smallest_loss:.1f} points"
        )
        cells = [part.name, f"{part.questions:,}", f"{part.images:,}"]
        cells += [f"{part.questions_per_image:,}", least]
        if costs:
            cells.append("-" if part.passes is None else f"{part.passes:,}")
            cells.append("-" if part.seconds is None else duration(part.seconds))
        table.add_row(*cells)
    console.print(table)


def _spread(spread: Spread) -> str:
    if spread.least == spread.greatest:
        return f"{spread.least:,}"
    return f"{spread.least:,} to {spread.greatest:,} (median {spread.median:,g})"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items(), key=lambda x: -x[1]))
