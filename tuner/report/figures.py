"""The report's figures as plain plotly dictionaries (data and layout).

Plotly reads markup in texts, so every text that comes from a study passes through `safe`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tuner.report.palette import FAINT, GRID, INK, METHOD_COLORS, METHOD_SYMBOLS, SERIES
from tuner.results import AdaptiveRow, AlphaCurve, Interval, Results, TrialResult
from tuner.wording import METHOD_LABELS, Scale, alpha_text

Figure = dict[str, Any]
_SPREAD = 0.03  # trials at one budget are drawn up to 3 % to either side


def safe(text: object) -> str:
    """Return a text that plotly shows as it is written."""
    return html.escape(str(text), quote=False)


def layout(height: int, **options: Any) -> dict[str, Any]:
    """Return the layout that all figures share."""
    axis = {
        "gridcolor": GRID,
        "linecolor": FAINT,
        "zeroline": False,
        "fixedrange": True,  # a page that scrolls must not zoom
        "automargin": True,
        "ticks": "outside",
        "tickcolor": FAINT,
    }
    shared: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 10, "b": 8},
        "font": {"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 13}
        | {"color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": INK}, "align": "left"},
        "dragmode": False,
    }
    for key, value in options.items():
        shared[key] = {**axis, **value} if key in ("xaxis", "yaxis") else value
    return shared


def front(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that no other beats: none with as few tokens scores as much.

    Args:
        trials: Any order; trials that did not complete are left out.

    Returns:
        The Pareto front, fewest tokens first.
    """
    done = [t for t in trials if t.state == "complete"]
    best: list[TrialResult] = []
    for trial in sorted(done, key=lambda t: (t.budget, -t.score)):
        if not best or trial.score > best[-1].score:
            best.append(trial)
    return best


def pareto(results: Results, scale: Scale) -> Figure:
    """Score against visual tokens: trials and front, baselines, scores on the report split."""
    factor = _factor(scale)
    done = [t for t in results.trials if t.state == "complete"]
    spread = np.random.default_rng(0).uniform(-_SPREAD, _SPREAD, len(done))
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "Trial (tune split)",
            "x": [t.budget * (1 + s) for t, s in zip(done, spread, strict=True)],
            "y": [t.score * factor for t in done],
            "text": [_trial_text(t) for t in done],
            "hovertemplate": _hover(scale, "%{text}", "trial, tune split"),
            "marker": {"color": FAINT, "size": 6, "line": {"width": 0}},
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Front of the trials",
            "x": [t.budget for t in front(done)],
            "y": [t.score * factor for t in front(done)],
            "line": {"color": "#9aa9b8", "width": 2},
            "hoverinfo": "skip",
        },
    ]
    # side by side where they share a budget
    sides = {"paper-default": 0.955, "tuned": 1.0, "adaptive": 1.045}
    for name in ("random", "paper-default", "tuned", "adaptive"):
        rows = sorted(
            (r for r in results.report if r.name == name and r.budget), key=lambda r: r.budget or 0
        )
        if rows:
            xs = [(r.budget or 0) * sides.get(name, 1.0) for r in rows]
            trace = _points(name, xs, [r.score for r in rows], scale)
            trace["text"] = [f"{r.budget} tokens, alpha {alpha_text(r.alpha)}" for r in rows]
            trace["hovertemplate"] = _hover(scale, "%{text}")
            if name in ("random", "paper-default"):
                trace |= {"mode": "lines+markers"}
                trace["line"] = {"color": METHOD_COLORS[name], "width": 1, "dash": "dot"}
            data.append(trace)
    unpruned = next((r for r in results.report if r.name == "unpruned"), None)
    ticks = sorted({t.budget for t in done} | {r.budget for r in results.report if r.budget})
    shapes = []
    if unpruned is not None:
        if results.model.visual_tokens:
            ticks.append(results.model.visual_tokens)
            data.append(_points("unpruned", [ticks[-1]], [unpruned.score], scale))
        y = unpruned.score.mean * factor
        shapes = [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y}
            | {"line": {"color": METHOD_COLORS["unpruned"], "width": 1, "dash": "dash"}}
        ]
    x = {"type": "log", "tickvals": ticks, "ticktext": [str(t) for t in ticks]}
    x |= _title("visual tokens kept per image (log scale)")
    return {
        "data": data,
        "layout": layout(420, xaxis=x, yaxis=_score_axis(scale), shapes=shapes),
    }


def alpha_curves(results: Results, scale: Scale, split: str, budget: int) -> Figure:
    """Score over the alpha grid at one budget, a line a seed strategy, with standard errors."""
    factor = _factor(scale)
    here = [c for c in results.curves if c.split == split]
    alphas = sorted({a for c in here for a in c.alphas})
    data: list[dict[str, Any]] = []
    for curve in (c for c in here if c.budget == budget):
        color, dash, symbol = series(results, curve.seed_strategy)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": safe(curve.seed_strategy),
                "x": [alphas.index(a) for a in curve.alphas],
                "y": [s * factor for s in curve.scores],
                "error_y": {
                    "type": "data",
                    "array": [e * factor for e in curve.standard_errors],
                    "color": color,
                    "thickness": 1,
                    "width": 2,
                },
                "line": {"color": color, "dash": dash, "width": 2},
                "marker": {"color": color, "symbol": symbol, "size": 7},
                "text": [alpha_text(a) for a in curve.alphas],
                "hovertemplate": _hover(scale, "alpha %{text}"),
            }
        )
    shapes = []
    paper = next((r for r in results.report if r.name == "paper-default"), None)
    chosen = next((c for c in results.chosen if c.budget == budget), None)
    marks = [("paper-default", paper.alpha if paper else None)]
    marks.append(("tuned", chosen.fixed_alpha if chosen else None))
    for name, alpha in marks:
        if isinstance(alpha, float | int):
            x = float(np.interp(alpha, alphas, range(len(alphas))))
            shapes.append(
                {"type": "line", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1}
                | {"layer": "below"}
                | {"line": {"color": METHOD_COLORS[name], "width": 2, "dash": "dot"}}
            )
    values = [s * factor for c in here for s in c.scores]
    room = 0.06 * (max(values) - min(values)) + 1e-9
    x_axis = {"tickvals": list(range(len(alphas))), "ticktext": [alpha_text(a) for a in alphas]}
    x_axis |= _title("alpha")
    y_axis = _score_axis(scale) | {"range": [min(values) - room, max(values) + room]}
    return {"data": data, "layout": layout(300, xaxis=x_axis, yaxis=y_axis, shapes=shapes)}


def importances(values: Mapping[str, float]) -> Figure:
    """Share of the variation between trials that each setting explains, in [0, 1]."""
    return _bars({name: value * 100 for name, value in values.items()}, METHOD_COLORS["tuned"])


def feature_weights(shares: Mapping[str, float]) -> Figure:
    """How much each feature of the prompt moves the predictor, in percent."""
    return _bars(shares, METHOD_COLORS["adaptive"])


def adaptive_gains(rows: Sequence[AdaptiveRow], scale: Scale) -> Figure:
    """Differences from the best fixed alpha with their intervals, a row a budget."""
    factor = _factor(scale)
    data = []
    for name, label, shift in (
        ("adaptive", "adaptive alpha", 0.14),
        ("group", "best alpha per question group", -0.14),
    ):
        gains = [row.adaptive_minus_fixed for row in rows]
        if name == "group":
            gains = [row.group_minus_fixed for row in rows]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label,
                "x": [g.mean * factor for g in gains],
                "y": [len(rows) - 1 - i + shift for i in range(len(rows))],
                "error_x": _error(gains, factor, METHOD_COLORS[name]),
                "marker": {"color": METHOD_COLORS[name], "symbol": METHOD_SYMBOLS[name]}
                | {"size": 11},
                "text": [f"{r.budget} tokens" for r in rows],
                "hovertemplate": _hover(scale, "%{text}", axis="x:+"),
            }
        )
    unit = "points" if scale.percent else "score"
    x = _title(f"{unit} above the best fixed alpha")
    y = {
        "tickvals": list(range(len(rows))),
        "ticktext": [f"{r.budget} tokens" for r in reversed(rows)],
        "range": [-0.6, len(rows) - 0.4],
        "showgrid": False,
    }
    zero = {"type": "line", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "layer": "below"}
    zero["line"] = {"color": METHOD_COLORS["tuned"], "width": 2}
    return {
        "data": data,
        "layout": layout(90 + 62 * len(rows), xaxis=x, yaxis=y, shapes=[zero]),
    }


def alpha_histogram(row: AdaptiveRow, grid: Sequence[float]) -> Figure:
    """How often the predictor chose each alpha at one budget; the fixed one in blue.

    Args:
        row: The budget's row.
        grid: Alphas that it could choose; those it never chose are shown as such.

    Returns:
        The figure.
    """
    counts = {f"{alpha:g}": 0 for alpha in grid} | row.alpha_histogram
    total = sum(counts.values()) or 1
    names = sorted(counts, key=float)
    fixed = [float(name) == row.best_fixed_alpha for name in names]
    bars = {
        "type": "bar",
        "x": [alpha_text(float(name)) for name in names],
        "y": [100 * counts[name] / total for name in names],
        "marker": {"color": [METHOD_COLORS["tuned" if f else "adaptive"] for f in fixed]},
        "hovertemplate": "alpha %{x}: %{y:.1f} % of prompts<extra></extra>",
    }
    return {
        "data": [bars],
        "layout": layout(
            240,
            xaxis=_title("alpha") | {"type": "category", "showgrid": False},
            yaxis=_title("% of prompts") | {"rangemode": "tozero"},
            bargap=0.25,
        ),
    }


def series(results: Results, seed_strategy: str) -> tuple[str, str, str]:
    """Return colour, dash and marker of a seed strategy, the same in every figure."""
    names = list(dict.fromkeys(c.seed_strategy for c in results.curves))
    return SERIES[names.index(seed_strategy) % len(SERIES)]


def best_point(curve: AlphaCurve) -> tuple[float, float]:
    """Return the alpha with the greatest score, and that score."""
    place = int(np.argmax(curve.scores))
    return curve.alphas[place], curve.scores[place]


def _factor(scale: Scale) -> float:
    return 100.0 if scale.percent else 1.0


def _hover(scale: Scale, lead: str, name: str = "%{fullData.name}", axis: str = "y:") -> str:
    digits = ".1f" if scale.percent else ".3f"
    return f"{lead}<br>score %{{{axis}{digits}}}<extra>{name}</extra>"


def _title(text: str) -> dict[str, Any]:
    return {"title": {"text": text, "font": {"size": 13}, "standoff": 8}}


def _score_axis(scale: Scale) -> dict[str, Any]:
    return _title("score, %" if scale.percent else "score")


def _error(intervals: Sequence[Interval], factor: float, color: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [(i.high - i.mean) * factor for i in intervals],
        "arrayminus": [(i.mean - i.low) * factor for i in intervals],
        "color": color,
        "thickness": 1.5,
        "width": 4,
    }


def _points(
    name: str, xs: Sequence[float], scores: Sequence[Interval], scale: Scale
) -> dict[str, Any]:
    color, factor = METHOD_COLORS[name], _factor(scale)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": METHOD_LABELS[name],
        "x": list(xs),
        "y": [s.mean * factor for s in scores],
        "error_y": _error(scores, factor, color),
        "marker": {"color": color, "symbol": METHOD_SYMBOLS[name], "size": 10},
        "hovertemplate": _hover(scale, "all tokens"),
    }


def _trial_text(trial: TrialResult) -> str:
    params = ", ".join(f"{key} {value}" for key, value in sorted(trial.params.items()))
    return safe(f"trial {trial.number}: {params}")


def _bars(shares: Mapping[str, float], color: str) -> Figure:
    """Horizontal bars of shares in percent, the largest on top."""
    names = sorted(shares, key=lambda name: shares[name])
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [shares[name] for name in names],
        "y": [safe(name.replace("_", " ")) for name in names],
        "marker": {"color": color},
        "texttemplate": "%{x:.0f} %",
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
    }
    most = max(shares.values(), default=0.0) or 1.0
    x = _title("%") | {"range": [0, most * 1.15]}
    return {
        "data": [bars],
        "layout": layout(70 + 30 * len(names), xaxis=x, yaxis={"showgrid": False}, bargap=0.35),
    }
