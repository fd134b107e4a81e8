"""Speed and memory in words and tables, the same in console, report, card and file."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from resprune.setting import Adaptive, Setting
from tuner.output.wording import policy_text
from tuner.output.writing import write_all
from tuner.results.efficiency import Efficiency, Measured, Speedup, Spread
from tuner.results.schema import Results

JSON_FILE, PAGE_FILE = "efficiency.json", "efficiency.md"
_BESIDE = 3  # policies of one table in the console, which has 120 columns
_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
NOTE = (
    "Times are medians in milliseconds with their quartiles; faster and slower are medians of "
    "paired ratios with their 95 % interval (sign test). FLOPs (two a multiply-add, matrix "
    "products alone) and cache bytes are exact, of the language model; the vision tower's are not "
    "counted. Peak memory is what a prefill held over what was held at its start."
)


def speed_text(one: Speedup | None) -> str:
    """Say a ratio of times: ``1.84 times faster (1.79 to 1.90)``; ``-`` for none."""
    if one is None:
        return "-"
    if one.low > 1:
        return f"{one.ratio:.2f} times faster ({one.low:.2f} to {one.high:.2f})"
    if one.high < 1:
        return f"{1 / one.ratio:.2f} times slower ({1 / one.high:.2f} to {1 / one.low:.2f})"
    return f"not told apart ({one.low:.2f} to {one.high:.2f} times as fast)"


def memory_text(found: Efficiency, row: Measured) -> str:
    """Say what is left of the cache and of the peak memory; ``-`` where nothing was measured."""
    parts = [
        f"{name} {_percent(own, all_tokens)}"
        for name, own, all_tokens in (
            ("cache", row.kv_bytes, found.whole.kv_bytes),
            ("peak", row.peak_bytes, found.whole.peak_bytes),
        )
        if own is not None and all_tokens
    ]
    return ", ".join(parts) or "-"


def measured(results: Results, policy: Setting | Adaptive) -> Measured | None:
    """Return what was measured of a policy of a study; None where nothing was."""
    if results.efficiency is None:
        return None
    return next((row for row in results.efficiency.rows if row.policy == policy), None)


def headline(results: Results) -> str:
    """Say whether the recommended policy pays, or where that is none the largest of the study.

    Returns:
        The sentence of its row; empty where nothing was measured.
    """
    best = results.recommended
    chosen = sorted(results.chosen, key=lambda c: (c.policy.budget != best, -c.tokens))
    row = measured(results, chosen[0].policy) if chosen else None
    return "" if row is None or results.efficiency is None else sentence(results.efficiency, row)


def sentence(found: Efficiency, row: Measured) -> str:
    """Say in a sentence or two whether a policy pays on this model and machine."""
    if row.error is not None:
        return f"Its speed was not measured: {row.error}."
    if row.first_token is None or row.kept is None:
        return "Its speed was not measured: the model with all tokens could not run."
    speed = row.first_token
    where = "on this model and machine" + (" (extrapolated)" if found.extrapolated else "")
    left = (
        f"prefill takes {_percent(row.prefill_flops, found.whole.prefill_flops)} of the arithmetic "
        f"and {_percent(row.kv_bytes, found.whole.kv_bytes)} of the cache memory"
    )
    to = f"Pruning to {row.kept:.0f} visual tokens"
    said = f"{speed_text(speed)[:-1]}, 95 % interval)"
    if speed.low > 1:
        return f"{to} makes the first token {said} {where}; {left}."
    if speed.high < 1:
        return f"{to} makes the first token {said} {where}, though {left}. {pays_text(found, row)}"
    return (
        f"{to} makes the first token neither faster nor slower {where} as far as {found.repeats} "
        f"rounds can tell (speed {speed.low:.2f} to {speed.high:.2f} times, 95 % interval), though "
        f"{left}. {pays_text(found, row)}"
    )


def pays_text(found: Efficiency, row: Measured) -> str:
    """Say from which length and size on a policy would pay."""
    limits, total = row.break_even, found.whole.kept
    if limits is None or total is None:
        return ""
    near = (
        limits.visual_tokens is not None and limits.visual_tokens <= total,
        limits.parameters is not None and limits.parameters <= found.parameters,
    )
    if any(near):
        return "What it saves and what it costs are near each other here."
    parts = []
    if limits.visual_tokens is not None:
        parts.append(f"an image would have to have about {limits.visual_tokens:,} visual tokens")
    if limits.parameters is not None:
        would = "" if parts else "would have to have "
        parts.append(
            f"the language model {would}about {_short(limits.parameters)} parameters in its layers "
            f"(here {_short(found.parameters)})"
        )
    if not parts:
        return (
            "The language model itself was not faster with fewer tokens here, so from which size "
            "on pruning pays cannot be told."
        )
    return f"For it to pay, {', or '.join(parts)}."


def columns(found: Efficiency) -> list[str]:
    """Return the heads of the table."""
    rates = [f"tokens/s, batch {batch}" for batch in _batches(found)]
    return [
        "policy",
        "visual tokens",
        "first token",
        "whole call",
        "vision ms",
        "reading ms",
        "selection ms",
        "preparing ms",
        "prefill ms",
        "first token ms",
        "ms a token",
        *rates,
        "prefill FLOPs",
        "cache",
        "peak memory",
        "pays from visual tokens",
        "pays from parameters",
    ]


def lines(found: Efficiency) -> list[list[str]]:
    """Return the table, a line a policy; one that cannot run says why in its third cell."""
    table = []
    for row in found.rows:
        kept = "-" if row.kept is None else f"{row.kept:.0f}"
        name = policy_text(row.policy)
        if row.error is not None:
            head = [name, str(row.policy.budget), f"not run: {row.error}"]
            line = head + [""] * (len(columns(found)) - len(head))
            line[-5:-3] = _counted(found, row)
            table.append(line)
            continue
        whole = row is found.whole
        limits = row.break_even
        rates = (row.tokens_per_second.get(batch) for batch in _batches(found))
        parts = (row.vision_ms, row.read_ms, row.select_ms, row.prepare_ms, row.prefill_ms)
        table.append(
            [
                name,
                kept,
                "1" if whole else speed_text(row.first_token),
                "1" if whole else speed_text(row.whole_call),
                *map(_spread, (*parts, row.first_token_ms, row.decode_ms)),
                *map(_spread, rates),
                _amount(row.prefill_flops, found.whole.prefill_flops, ""),
                _amount(row.kv_bytes, found.whole.kv_bytes, "B"),
                _amount(row.peak_bytes, found.whole.peak_bytes, "B"),
                "-" if not limits or limits.visual_tokens is None else f"{limits.visual_tokens:,}",
                "-" if not limits or limits.parameters is None else _short(limits.parameters),
            ]
        )
    return table


def _counted(found: Efficiency, row: Measured) -> list[str]:
    """Write the FLOPs and the cache of a row that was not run; empty where they are not known."""
    if row.prefill_flops is None:
        return ["", ""]
    return [
        _amount(row.prefill_flops, found.whole.prefill_flops, ""),
        _amount(row.kv_bytes, found.whole.kv_bytes, "B"),
    ]


def setup(found: Efficiency) -> str:
    """Say what was measured, where and how."""
    depth = f"{found.layers} decoder layers"
    if found.extrapolated:
        ran = " and ".join(map(str, found.measured_layers))
        depth += f", times extrapolated as a + L b from {ran}"
    return (
        f"{found.model} in {found.dtype}, {depth}, {_short(found.parameters)} parameters in them; "
        f"{found.device}. {found.repeats} interleaved rounds over {found.prompts} prompts "
        f"({found.prompt_source}), {found.new_tokens} new tokens a call, seed {found.seed}."
    )


def show_efficiency(found: Efficiency, console: Console) -> None:
    """Print the table, turned so that a policy is a column, and what it comes to."""
    heads, body = columns(found), lines(found)
    runs = [line for line, row in zip(body, found.rows, strict=True) if row.error is None]
    whole = [runs.pop(0)] if found.whole.error is None else []
    console.print(setup(found), markup=False, highlight=False)
    for start in range(0, len(runs), _BESIDE):
        table = Table()
        table.add_column("")
        beside = [*whole, *runs[start : start + _BESIDE]]
        for line in beside:
            table.add_column(f"{line[0]}\n{line[1]} tokens", justify="right")
        for place in range(2, len(heads)):
            table.add_row(heads[place], *(line[place] for line in beside))
        console.print(table, markup=False)
    for row in found.rows:
        if row.error is not None:
            console.print(
                f"- {policy_text(row.policy)} at {row.policy.budget}: not run: {row.error}"
                + "".join(
                    f"; {name} {amount}"
                    for name, amount in zip(("FLOPs", "cache"), _counted(found, row), strict=True)
                    if amount
                ),
                markup=False,
                highlight=False,
            )
        elif row is not found.whole:
            console.print(
                f"- {policy_text(row.policy)}: {sentence(found, row)}",
                markup=False,
                highlight=False,
            )
        for batch, error in row.batch_errors.items():
            console.print(f"  batch {batch}: not run: {error}", markup=False, highlight=False)
    console.print(NOTE, markup=False, highlight=False)


def page(found: Efficiency) -> str:
    """Return the table as Markdown."""
    heads = columns(found)
    table = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    table += [f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |" for line in lines(found)]
    return "\n\n".join((setup(found), "\n".join(table), NOTE)) + "\n"


def write_efficiency(found: Efficiency, folder: Path) -> list[Path]:
    """Write ``efficiency.json`` and ``efficiency.md``; see ``write_all``."""
    return write_all(folder, {JSON_FILE: found.model_dump(mode="json"), PAGE_FILE: page(found)})


def _batches(found: Efficiency) -> list[int]:
    return sorted({b for row in found.rows for b in (*row.tokens_per_second, *row.batch_errors)})


def _spread(one: Spread | None) -> str:
    if one is None:
        return "-"
    return f"{_number(one.median)} ({_number(one.low)} to {_number(one.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _amount(own: int | None, whole: int | None, unit: str) -> str:
    if own is None:
        return "-"
    share = f" ({_percent(own, whole)})" if whole and own != whole else ""
    return f"{_short(own)}{unit}{share}"


def _percent(part: int | None, whole: int | None) -> str:
    return "-" if part is None or not whole else f"{100 * part / whole:.0f} %"


def _short(value: float) -> str:
    """Write a large number with a letter: ``6.5 G``."""
    for letter, size in _UNITS:
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f} "
