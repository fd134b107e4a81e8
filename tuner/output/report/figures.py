"""The report's figures as plain plotly dictionaries (data and layout).

Plotly reads markup in texts, so every text that comes from a study passes through `safe`.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from resprune.setting import Setting, fixed
from tuner.output.wording import Scale, arms_text, kept_text, option_word, policy_text
from tuner.results.rows import KINDS, RowKind
from tuner.results.schema import AdaptiveRow, Curve, Interval, Results, TrialResult

Figure = dict[str, Any]
INK, FAINT, GRID = "#1f2933", "#c3ccd6", "#e6eaef"
GROUP = "#e69f00"  # the best arm of each kind of question: a bound, not a kind of row
_SPREAD = 0.03  # trials at one budget are drawn up to 3 % to either side
_ASIDE = 1.03  # and kinds of rows this factor apart
# rivals share a colour, lines of a figure are of one kind: told apart by symbol and dash
_RIVALS = ("cross", "hexagon", "pentagon", "bowtie", "hourglass", "star-square", "hexagram")
_LINES = (
    ("#0072b2", "solid", "circle"),
    ("#56b4e9", "dash", "square"),
    ("#332288", "dot", "diamond"),
    ("#6b7f99", "dashdot", "triangle-up"),
    ("#117799", "longdash", "x"),
)


def safe(text: object) -> str:
    """Return a text that plotly shows as it is written."""
    return html.escape(str(text), quote=False)


def layout(height: int, **options: Any) -> dict[str, Any]:
    """Return the layout that all figures share."""
    axis = {"gridcolor": GRID, "linecolor": FAINT, "zeroline": False, "automargin": True}
    axis |= {"fixedrange": True, "ticks": "outside", "tickcolor": FAINT}  # scrolling zooms not
    font = {"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 13, "color": INK}
    shared: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 10, "b": 8},
        "font": font,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": INK}, "align": "left"},
        "dragmode": False,
    }
    for key, value in options.items():
        shared[key] = {**axis, **value} if key in ("xaxis", "yaxis") else value
    return shared


def front(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that no other beats, fewest tokens first (the Pareto front)."""
    best: list[TrialResult] = []
    for trial in sorted(trials, key=lambda t: (t.tokens, -t.score)):
        if not best or trial.score > best[-1].score:
            best.append(trial)
    return best


def pareto(results: Results, rows: pd.DataFrame, scale: Scale) -> Figure:
    """Draw score against visual tokens: trials, their front, and the report split."""
    trials, best = results.trials, front(results.trials)
    spread = np.random.default_rng(0).uniform(1 - _SPREAD, 1 + _SPREAD, len(trials))
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "Trial, tune split",
            "x": [t.tokens * s for t, s in zip(trials, spread, strict=True)],
            "y": [t.score * scale.factor for t in trials],
            "text": [safe(f"trial {t.number}: {policy_text(t.setting)}") for t in trials],
            "hovertemplate": _hover(scale),
            "marker": {"color": FAINT, "size": 6},
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Best trials (the front)",
            "x": [t.tokens for t in best],
            "y": [t.score * scale.factor for t in best],
            "line": {"color": "#9aa9b8", "width": 2},
            "hoverinfo": "skip",
        },
    ]
    shown = rows[(rows.split == "report") & (rows.tokens > 0)]
    kinds = ("random", "paper-default", "rival", "tuned", "adaptive")
    series = [
        points
        for kind in kinds
        for _, points in shown[shown.kind == kind].groupby("label", sort=False)
    ]
    rivals = itertools.cycle(_RIVALS)
    for i, points in enumerate(series):  # side by side where they keep as many tokens
        trace = _points(points, scale, _ASIDE ** (i - (len(series) - 1) / 2))
        kind = points.kind.iloc[0]
        if kind == "rival":
            trace["marker"]["symbol"] = next(rivals)
        if kind in ("random", "paper-default"):
            line = {"color": points.color.iloc[0], "width": 1, "dash": "dot"}
            trace |= {"mode": "lines+markers", "line": line}
        data.append(trace)
    whole = shown[shown.kind == "unpruned"]
    shapes = []
    if len(whole):
        data.append(_points(whole, scale))
        y, line = data[-1]["y"][0], {"color": KINDS["unpruned"].color, "width": 1, "dash": "dash"}
        shapes.append(_line(line, xref="paper", x0=0, x1=1, y0=y, y1=y))
    # one tick a budget; counts of single trials would be too many where they follow the image
    ticks = sorted({*map(int, shown[shown.exported].tokens), *map(int, whole.tokens)})
    x = {"type": "log", "tickvals": ticks, "ticktext": [str(t) for t in ticks]}
    x |= _title("visual tokens kept per image (log scale)")
    look = layout(460, xaxis=x, yaxis=_score_axis(scale), shapes=shapes, showlegend=True)
    return {"data": data, "layout": look}


def curves(results: Results, scale: Scale, option: str, split: str) -> list[tuple[str, Figure]]:
    """Draw score over one option's values: a caption and a figure for each budget."""
    here = [c for c in results.curves if (c.option, c.split) == (option, split)]
    names = list(dict.fromkeys(policy_text(c.setting, without=option) for c in here))
    values = sorted({value for curve in here for value in curve.values})
    scores = [score * scale.factor for curve in here for score in curve.scores]
    room = 0.06 * (max(scores) - min(scores)) + 1e-9
    x = {"tickvals": list(range(len(values))), "ticktext": [f"{value:g}" for value in values]}
    x |= _title(option_word(option))
    y = _score_axis(scale) | {"range": [min(scores) - room, max(scores) + room]}
    paper = [r.policy for r in results.report if r.kind == "paper-default"]
    marks: list[tuple[RowKind, Setting]] = [("tuned", c.setting) for c in results.chosen]
    marks += [("paper-default", fixed(policy)) for policy in paper]
    found = []
    for first in sorted({c.setting.budget: c for c in here}.values(), key=lambda c: -c.tokens):
        budget = first.setting.budget
        lines = [c for c in here if c.setting.budget == budget]
        methods = {c.setting.method for c in lines}
        shapes = []
        for kind, setting in marks:
            value = setting.option(option)
            if setting.budget == budget and setting.method in methods and value is not None:
                at = float(np.interp(value, values, range(len(values))))
                line = {"color": KINDS[kind].color, "width": 2, "dash": "dot"}
                shapes.append(_line(line, yref="paper", x0=at, x1=at, y0=0, y1=1))
        data = [_curve(c, names, values, scale) for c in lines]
        look = layout(300, xaxis=x, yaxis=y, shapes=shapes, showlegend=len(names) > 1)
        caption = kept_text(budget, first.tokens, results.model.visual_tokens)
        if len(names) == 1:
            caption += f": {names[0]}"
        found.append((caption, {"data": data, "layout": look}))
    return found


def gains(rows: Sequence[AdaptiveRow], scale: Scale) -> Figure:
    """Draw differences from the best fixed arm with their intervals, a line a budget."""
    places = list(range(len(rows)))[::-1]
    names = [f"{row.tokens} tokens" for row in rows]
    adaptive = KINDS["adaptive"]
    data = []
    for label, color, symbol, shift, found in (
        (
            "by prompt",
            adaptive.color,
            adaptive.symbol,
            0.14,
            [r.adaptive_minus_fixed for r in rows],
        ),
        ("best arm of each group", GROUP, "hexagon", -0.14, [r.group_minus_fixed for r in rows]),
    ):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label,
                "x": [g.mean * scale.factor for g in found],
                "y": [place + shift for place in places],
                "error_x": _error(found, scale, color),
                "marker": {"color": color, "symbol": symbol, "size": 11},
                "text": names,
                "hovertemplate": _hover(scale, axis="x:+"),
            }
        )
    x = _title(f"{'points' if scale.percent else 'score'} above the best fixed arm")
    y = {"tickvals": places, "ticktext": names, "range": [-0.6, len(rows) - 0.4]}
    zero = _line({"color": KINDS["tuned"].color, "width": 2}, yref="paper", x0=0, x1=0, y0=0, y1=1)
    height = 120 + 62 * len(rows)
    look = layout(height, xaxis=x, yaxis={**y, "showgrid": False}, shapes=[zero], showlegend=True)
    return {"data": data, "layout": look}


def arms(row: AdaptiveRow) -> Figure:
    """Draw how often the predictor chose each arm at one budget; the fallback in blue."""
    word, names = arms_text(row.policy)
    total = sum(row.chosen) or 1
    colors = [KINDS["adaptive"].color] * len(names)
    colors[row.policy.fallback] = KINDS["tuned"].color
    bars = {
        "type": "bar",
        "x": [safe(name) for name in names],
        "y": [100 * count / total for count in row.chosen],
        "marker": {"color": colors},
        "hovertemplate": f"{safe(word)} %{{x}}: %{{y:.1f}} % of prompts<extra></extra>",
    }
    x = _title(safe(word)) | {"type": "category", "showgrid": False}
    y = _title("% of prompts") | {"rangemode": "tozero"}
    return {"data": [bars], "layout": layout(240, xaxis=x, yaxis=y, bargap=0.25)}


def bars(shares: Mapping[str, float], kind: RowKind) -> Figure:
    """Draw shares, in [0, 1], as horizontal bars in percent, the largest on top."""
    names = sorted(shares, key=lambda name: shares[name])
    data = {
        "type": "bar",
        "orientation": "h",
        "x": [100 * shares[name] for name in names],
        "y": [safe(option_word(name)) for name in names],
        "marker": {"color": KINDS[kind].color},
        "texttemplate": "%{x:.0f} %",
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
    }
    most = 100 * max(shares.values(), default=0.0) or 1.0
    x = _title("%") | {"range": [0, most * 1.15]}
    look = layout(70 + 30 * len(names), xaxis=x, yaxis={"showgrid": False}, bargap=0.35)
    return {"data": [data], "layout": look}


def _curve(curve: Curve, names: Sequence[str], values: Sequence[float], scale: Scale) -> Figure:
    name = policy_text(curve.setting, without=curve.option)
    color, dash, symbol = _LINES[names.index(name) % len(_LINES)]
    errors = [error * scale.factor for error in curve.standard_errors]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": safe(name),
        "x": [values.index(value) for value in curve.values],
        "y": [score * scale.factor for score in curve.scores],
        "error_y": {"type": "data", "array": errors, "color": color, "thickness": 1, "width": 2},
        "line": {"color": color, "dash": dash, "width": 2},
        "marker": {"color": color, "symbol": symbol, "size": 7},
        "text": [f"{safe(option_word(curve.option))} {value:g}" for value in curve.values],
        "hovertemplate": _hover(scale),
    }


def _points(points: pd.DataFrame, scale: Scale, aside: float = 1.0) -> dict[str, Any]:
    first = points.iloc[0]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": safe(first.label),
        "x": [tokens * aside for tokens in points.tokens],
        "y": [mean * scale.factor for mean in points["mean"]],
        "error_y": _error(list(points.itertuples()), scale, first.color),
        "marker": {"color": first.color, "symbol": first.symbol, "size": 10},
        "text": [safe(f"{row.kept}: {row.setting}") for row in points.itertuples()],
        "hovertemplate": _hover(scale),
    }


def _hover(scale: Scale, axis: str = "y:") -> str:
    digits = ".1f" if scale.percent else ".3f"
    return f"%{{text}}<br>score %{{{axis}{digits}}}<extra>%{{fullData.name}}</extra>"


def _line(line: dict[str, Any], **ends: Any) -> dict[str, Any]:
    return {"type": "line", "layer": "below", "line": line, **ends}


def _title(text: str) -> dict[str, Any]:
    return {"title": {"text": text, "font": {"size": 13}, "standoff": 8}}


def _score_axis(scale: Scale) -> dict[str, Any]:
    return _title("score, %" if scale.percent else "score")


def _error(intervals: Sequence[Interval], scale: Scale, color: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [(i.high - i.mean) * scale.factor for i in intervals],
        "arrayminus": [(i.mean - i.low) * scale.factor for i in intervals],
        "color": color,
        "thickness": 1.5,
        "width": 4,
    }
