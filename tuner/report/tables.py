"""The report's tables as HTML. Every text that comes from a study is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from tuner.report.palette import METHOD_COLORS
from tuner.results import Interval, ReportRow, Results
from tuner.wording import (
    METHOD_LABELS,
    Scale,
    alpha_text,
    deployed,
    duration,
    find_row,
    share,
    verdict,
)

_ORDER = (
    "unpruned",
    "adaptive",
    "tuned",
    "paper-default",
    "alpha-0",
    "relevance-only",
    "random",
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: Sequence[int] = ()) -> str:
    """Return a table of cells that are HTML already; the marked rows stand out.

    Args:
        head: Column titles; all columns but the first are set flush right.
        rows: Cells.
        marked: Indices of rows to mark.

    Returns:
        The table, in a box of its own that scrolls on a narrow screen.
    """
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(
            f'<th scope="row">{cell}</th>' if j == 0 else f"<td>{cell}</td>"
            for j, cell in enumerate(row)
        )
        lines.append(f'<tr class="marked">{cells}</tr>' if i in marked else f"<tr>{cells}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def text(value: object) -> str:
    """Escape a text for HTML."""
    return html.escape(str(value))


def chip(name: str, label: str) -> str:
    """Return a label with the colour of its method."""
    return f'<span class="chip" style="--c:{METHOD_COLORS[name]}">{text(label)}</span>'


def configs(results: Results, scale: Scale) -> str:
    """One row a chosen config: what it is, what it scores, how sure that is."""
    total = results.model.visual_tokens
    rows, marked = [], []
    for i, one in enumerate(deployed(results)):
        chosen, row = one.chosen, one.row
        name = f"{chosen.budget}"
        if total:
            name += f' <span class="faint">({share(chosen.budget, total)})</span>'
        if one.recommended:
            name += ' <span class="tag">recommended</span>'
            marked.append(i)
        score = _interval(row.score if row else None, scale)
        against = [row.versus_unpruned, row.versus_paper] if row else [None, None]
        settings = [text(alpha_text(chosen.alpha)), text(chosen.seed_strategy)]
        rows.append([name, score, *(_difference(d, scale) for d in against), *settings])
    head = ["tokens kept", f"score{scale.unit}", "against all tokens"]
    head += ["against the paper's default", "alpha", "seed strategy"]
    return table(head, rows, marked)


def scores(results: Results, scale: Scale) -> str:
    """Every setting that was scored on the report split."""
    rows = sorted(results.report, key=lambda r: (-(r.budget or 10**9), _ORDER.index(r.name)))
    cells = [
        [
            chip(row.name, row.label),
            "all" if row.budget is None else str(row.budget),
            text(alpha_text(row.alpha)),
            text(row.seed_strategy or "-"),
            _interval(row.score, scale),
            _difference(row.versus_unpruned, scale),
            _difference(row.versus_paper, scale),
        ]
        for row in rows
    ]
    head = ["setting", "tokens", "alpha", "seed strategy", f"score{scale.unit}"]
    return table([*head, "against all tokens", "against the paper's default"], cells)


def tune_scores(results: Results, scale: Scale) -> str:
    """Baselines and chosen configs on the tune split."""
    cells = [
        [
            chip(row.name, METHOD_LABELS[row.name]),
            "all" if row.budget is None else str(row.budget),
            text(alpha_text(row.alpha)),
            text(row.seed_strategy or "-"),
            _interval(row.score, scale),
        ]
        for row in results.baselines
    ]
    for one in deployed(results):
        chosen = one.chosen
        name = "adaptive" if chosen.alpha == "adaptive" else "tuned"
        cells.append(
            [
                chip(name, "Chosen"),
                str(chosen.budget),
                text(alpha_text(chosen.alpha)),
                text(chosen.seed_strategy),
                _interval(chosen.tune_score, scale),
            ]
        )
    return table(["setting", "tokens", "alpha", "seed strategy", f"score{scale.unit}"], cells)


def adaptive(results: Results, scale: Scale) -> str:
    """Fixed, adaptive, by group and oracle at each budget."""
    rows = [
        [
            str(row.budget),
            f"{_interval(row.best_fixed, scale)}"
            f'<br><span class="faint">alpha {alpha_text(row.best_fixed_alpha)}</span>',
            f"{_interval(row.adaptive, scale)}<br>{_difference(row.adaptive_minus_fixed, scale)}",
            f"{_interval(row.best_per_group, scale)}"
            f"<br>{_difference(row.group_minus_fixed, scale)}",
            f"{_interval(row.oracle, scale)}<br>{_difference(row.oracle_minus_fixed, scale)}",
            f"{row.strength:.2f}",
        ]
        for row in results.adaptive
    ]
    head = [
        "tokens",
        chip("tuned", "best fixed alpha"),
        chip("adaptive", "adaptive alpha"),
        chip("group", "best per question group"),
        chip("oracle", "best per question"),
        "trust",
    ]
    return table(head, rows)


def groups(results: Results, scale: Scale, budget: int) -> str:
    """Scores by group of questions at one budget."""
    columns: list[ReportRow] = []
    for name in _ORDER:
        row = find_row(results.report, name, None if name == "unpruned" else budget)
        if row is not None and row.by_group:
            columns.append(row)
    lines = []
    for group in results.groups:
        cells = [text(group)]
        for row in columns:
            interval = row.by_group.get(group)
            cells.append(_shaded(interval, scale) if interval else "-")
        lines.append(cells)
    return table(["group", *(chip(r.name, METHOD_LABELS[r.name]) for r in columns)], lines)


def cost(results: Results) -> str:
    """Seconds by stage."""
    spent = results.cost
    total = sum(spent.seconds.values())
    rows = [
        [text(name), duration(seconds), share(seconds, total)]
        for name, seconds in spent.seconds.items()
    ]
    rows.append(["total", duration(total), ""])
    return table(["stage", "time", "share"], rows, [len(rows) - 1])


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Return names and values as a description list."""
    inner = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows)
    return f"<dl>{inner}</dl>"


def _interval(interval: Interval | None, scale: Scale) -> str:
    if interval is None:
        return "-"
    return (
        f'<b>{scale.number(interval.mean)}</b> <span class="faint">{scale.range(interval)}</span>'
    )


def _difference(difference: Interval | None, scale: Scale) -> str:
    if difference is None:
        return "-"
    word = verdict(difference)
    return (
        f"<b>{scale.signed(difference.mean)}</b> "
        f'<span class="faint">{scale.signed_range(difference)}</span> '
        f'<span class="verdict {word.replace(" ", "-")}">{word}</span>'
    )


def _shaded(interval: Interval, scale: Scale) -> str:
    """A score whose cell is the darker the lower it is, where scores are shares."""
    depth = min(1.0, max(0.0, 1 - interval.mean)) if scale.percent else 0.0
    return (
        f'<span class="heat" style="--h:{depth:.2f}"><b>{scale.number(interval.mean)}</b>'
        f'<br><span class="faint">{scale.range(interval)}</span></span>'
    )
