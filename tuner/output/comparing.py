"""Figures of a comparison as plain plotly dictionaries."""

from __future__ import annotations

from typing import Any

from resprune.budget import Budget
from tuner.output.report.figures import safe
from tuner.output.wording import Scale, policy_text
from tuner.results.compared import Compared, ComparedRow

# Okabe and Ito, "Color universal design" (2008), then greys and browns; symbols differ too
_COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#94866a",
    "#332288",
    "#7d868f",
    "#a8703f",
    "#117799",
    "#aa4499",
    "#44aa99",
    "#882255",
)
_SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "cross",
    "x",
    "triangle-up",
    "triangle-down",
    "pentagon",
    "hexagon",
    "star",
    "bowtie",
    "hourglass",
    "triangle-left",
    "triangle-right",
)
_AXES = {
    "tokens": "visual tokens left of an image (log scale)",
    "cost": "visual tokens averaged over the LLM's layers (log scale)",
    "latency": "first token, ms (median)",
}


def across(found: Compared, scale: Scale, axis: str) -> dict[str, Any]:
    """Draw the score of tuned settings against tokens, cost or latency, a line a method."""
    basis = "tokens" if axis == "tokens" else "cost"
    methods = list(dict.fromkeys(row.method for row in found.rows))
    data: list[dict[str, Any]] = []
    for place, method in enumerate(methods):
        rows = [
            row
            for row in found.rows
            if (row.method, row.basis, row.which) == (method, basis, "tuned") and row.score
        ]
        points = [(x, row) for row in rows if (x := _place(found, row, axis)) is not None]
        points.sort(key=lambda point: point[0])
        if not points:
            continue
        means = [row.score.mean * scale.factor for _, row in points if row.score]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": safe(method),
                "x": [x for x, _ in points],
                "y": means,
                "text": [safe(policy_text(row.setting)) for _, row in points if row.setting],
                "hovertemplate": f"%{{text}}<br>score %{{y:.{scale.digits}f}}"
                "<extra>%{fullData.name}</extra>",
                "marker": {
                    "color": _COLORS[place % len(_COLORS)],
                    "symbol": _SYMBOLS[place % len(_SYMBOLS)],
                    "size": 9,
                },
                "line": {"color": _COLORS[place % len(_COLORS)], "width": 1},
            }
        )
    level = found.unpruned.mean * scale.factor
    rule = {"color": "#333333", "width": 2, "dash": "dot"}
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level}
    x_axis: dict[str, Any] = {"title": {"text": _AXES[axis]}}
    if axis != "latency":
        ticks = sorted({round(x) for trace in data for x in trace["x"]})
        x_axis |= {"type": "log", "tickvals": ticks, "ticktext": [str(n) for n in ticks]}
    return {
        "data": data,
        "layout": {
            "height": 520,
            "xaxis": x_axis,
            "yaxis": {"title": {"text": f"score{',' if scale.unit else ''}{scale.unit}"}},
            "shapes": [shape | {"line": rule, "layer": "below"}],
            "showlegend": True,
        },
    }


def heat(found: Compared, scale: Scale, budget: Budget) -> dict[str, Any]:
    """Draw the score of tuned settings by question type at equal tokens, a row a method."""
    rows = [row for row in found.table(budget, "tokens", "tuned") if row.score]
    names = ["all tokens", *(row.label for row in rows)]
    by_group = [found.unpruned_by_group, *(row.by_group for row in rows)]
    z = [[groups[name].mean * scale.factor for name in found.groups] for groups in by_group]
    data = {
        "type": "heatmap",
        "x": [safe(name) for name in found.groups],
        "y": [safe(name) for name in names],
        "z": z,
        "texttemplate": f"%{{z:.{scale.digits}f}}",
        "colorscale": "Cividis",
        "hovertemplate": "%{y}, %{x}: %{z}<extra></extra>",
        "colorbar": {"title": {"text": f"score{scale.unit}"}},
    }
    y_axis = {"autorange": "reversed", "type": "category"}
    x_axis = {"type": "category", "side": "top"}
    height = 110 + 28 * len(names)
    return {"data": [data], "layout": {"height": height, "xaxis": x_axis, "yaxis": y_axis}}


def _place(found: Compared, row: ComparedRow, axis: str) -> float | None:
    if axis == "tokens":
        return row.tokens
    if axis == "cost" or found.efficiency is None:
        return row.cost
    times = [m.first_token_ms for m in found.efficiency.rows if m.policy == row.setting]
    return times[0].median if times and times[0] is not None else None
