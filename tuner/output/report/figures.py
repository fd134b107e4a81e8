"""The report's figures as plain plotly dictionaries (data and layout).

Plotly reads markup in texts, so every text that comes from a study passes through `safe`.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from resprune.setting import Setting, fixed
from tuner.output.wording import Scale, arms_text, kept_text, option_word, policy_text
from tuner.results.rows import KINDS, RowKind
from tuner.results.schema import AdaptiveRow, Curve, Interval, Results, TrialResult

Figure = dict[str, Any]
GROUP = "#e69f00"  # the best arm of each kind of question: a bound, not a kind of row
_INK, _FAINT = "#1f2933", "#c3ccd6"
_AXIS = {
    "gridcolor": "#e6eaef",
    "linecolor": _FAINT,
    "tickcolor": _FAINT,
    "ticks": "outside",
    "showline": True,
    "zeroline": False,
    "automargin": True,
    "fixedrange": True,  # scrolling does not zoom
    "title": {"font": {"size": 13}, "standoff": 8},
}
_LOOK = {
    "font": {"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 13, "color": _INK},
    "margin": {"l": 8, "r": 12, "t": 10, "b": 8},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "showlegend": False,
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": _INK}, "align": "left"},
    "dragmode": False,
    "xaxis": _AXIS,
    "yaxis": _AXIS,
}
_SPREAD = 0.03  # trials at one budget are drawn up to 3 % to either side
_ASIDE = 1.03  # and kinds of rows this factor apart
# rivals share a colour, and the lines of a figure a kind: told apart by symbol and dash
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
    dots = _scatter(
        "Trial, tune split",
        [trial.tokens * aside for trial, aside in zip(trials, spread, strict=True)],
        [trial.score * scale.factor for trial in trials],
        [f"trial {trial.number}: {policy_text(trial.setting)}" for trial in trials],
        _hover(scale),
        marker={"color": _FAINT, "size": 6},
    )
    x, y = [t.tokens for t in best], [t.score * scale.factor for t in best]
    line = _scatter("Best trials (the front)", x, y, mode="lines", hoverinfo="skip")
    data = [dots, line | {"line": {"color": "#9aa9b8", "width": 2}}]
    shown = rows[(rows.split == "report") & (rows.tokens > 0)]
    series = [
        points
        for kind in ("random", "paper-default", "rival", "tuned", "adaptive")
        for _, points in shown[shown.kind == kind].groupby("label", sort=False)
    ]
    rivals = itertools.cycle(_RIVALS)
    for i, points in enumerate(series):  # side by side where they keep as many tokens
        trace = _points(points, scale, _ASIDE ** (i - (len(series) - 1) / 2))
        kind, color = points.kind.iloc[0], points.color.iloc[0]
        if kind == "rival":
            trace["marker"]["symbol"] = next(rivals)
        if kind in ("random", "paper-default"):
            trace |= {"mode": "lines+markers", "line": {"color": color, "width": 1, "dash": "dot"}}
        data.append(trace)
    whole = shown[shown.kind == "unpruned"]
    shapes = []
    if len(whole):
        data.append(_points(whole, scale))
        look = {"color": KINDS["unpruned"].color, "width": 1, "dash": "dash"}
        shapes.append(_rule(look, xref="paper", x0=0, x1=1, y0=data[-1]["y"][0]))
    # one tick a budget; counts of single trials would be too many where they follow the image
    ticks = sorted({int(n) for n in (*shown[shown.exported].tokens, *whole.tokens)})
    x_axis = {"type": "log", "tickvals": ticks, "ticktext": [str(n) for n in ticks]}
    x_axis |= _title("visual tokens kept per image (log scale)")
    return _figure(460, data, x_axis, _score_axis(scale), shapes=shapes, showlegend=True)


def curves(results: Results, scale: Scale, option: str, split: str) -> list[tuple[str, Figure]]:
    """Draw score over one option's values: a caption and a figure for each budget."""
    here = [c for c in results.curves if (c.option, c.split) == (option, split)]
    names = list(dict.fromkeys(policy_text(c.setting, without=option) for c in here))
    values = sorted({value for curve in here for value in curve.values})
    scores = [score * scale.factor for curve in here for score in curve.scores]
    room = 0.06 * (max(scores) - min(scores)) + 1e-9
    x_axis = {"tickvals": list(range(len(values))), "ticktext": [f"{v:g}" for v in values]}
    y_axis = _score_axis(scale) | {"range": [min(scores) - room, max(scores) + room]}
    marks: list[tuple[RowKind, Setting]] = [("tuned", c.setting) for c in results.chosen]
    marks += [(r.kind, fixed(r.policy)) for r in results.report if r.kind == "paper-default"]
    found = []
    for first in sorted({c.setting.budget: c for c in here}.values(), key=lambda c: -c.tokens):
        budget = first.setting.budget
        lines = [c for c in here if c.setting.budget == budget]
        shapes = []
        for kind, setting in marks:
            if setting.budget == budget and setting.method in {c.setting.method for c in lines}:
                at = float(np.interp(setting.option(option), values, range(len(values))))
                look = {"color": KINDS[kind].color, "width": 2, "dash": "dot"}
                shapes.append(_rule(look, yref="paper", x0=at, y0=0, y1=1))
        data = [_curve(c, names, values, scale) for c in lines]
        axes = x_axis | _title(option_word(option)), y_axis
        caption = kept_text(budget, first.tokens, results.model.visual_tokens)
        caption += f": {names[0]}" if len(names) == 1 else ""
        figure = _figure(300, data, *axes, shapes=shapes, showlegend=len(names) > 1)
        found.append((caption, figure))
    return found


def gains(rows: Sequence[AdaptiveRow], scale: Scale) -> Figure:
    """Draw differences from the best fixed arm with their intervals, a line a budget."""
    places = list(range(len(rows)))[::-1]
    names = [f"{row.tokens} tokens" for row in rows]
    look, data = KINDS["adaptive"], []
    for label, color, symbol, shift, found in (
        ("by prompt", look.color, look.symbol, 0.14, [r.adaptive_minus_fixed for r in rows]),
        ("best arm of each group", GROUP, "hexagon", -0.14, [r.group_minus_fixed for r in rows]),
    ):
        x = [gain.mean * scale.factor for gain in found]
        y = [place + shift for place in places]
        trace = _scatter(label, x, y, names, _hover(scale, "x:+"))
        trace["marker"] = {"color": color, "symbol": symbol, "size": 11}
        data.append(trace | {"error_x": _error(found, scale, color)})
    x_axis = _title(f"{'points' if scale.percent else 'score'} above the best fixed arm")
    y_axis = {"tickvals": places, "ticktext": names, "showgrid": False}
    y_axis["range"] = [-0.6, len(rows) - 0.4]
    zero = _rule({"color": KINDS["tuned"].color, "width": 2}, yref="paper", x0=0, y0=0, y1=1)
    height = 120 + 62 * len(rows)
    return _figure(height, data, x_axis, y_axis, shapes=[zero], showlegend=True)


def arms(row: AdaptiveRow) -> Figure:
    """Draw how often the predictor chose each arm at one budget; the fallback in blue."""
    word, names = arms_text(row.policy)
    total = sum(row.chosen) or 1
    colors = [KINDS["adaptive"].color] * len(names)
    colors[row.policy.fallback] = KINDS["tuned"].color
    bars: Figure = {"type": "bar", "x": [safe(name) for name in names], "marker": {"color": colors}}
    bars["y"] = [100 * count / total for count in row.chosen]
    bars["hovertemplate"] = f"{safe(word)} %{{x}}: %{{y:.1f}} % of prompts<extra></extra>"
    x_axis = _title(safe(word)) | {"type": "category", "showgrid": False}
    y_axis = _title("% of prompts") | {"rangemode": "tozero"}
    return _figure(240, [bars], x_axis, y_axis, bargap=0.25)


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
    x_axis = _title("%") | {"range": [0, 115 * (max(shares.values()) or 1.0)]}
    return _figure(70 + 30 * len(names), [data], x_axis, {"showgrid": False}, bargap=0.35)


def _figure(height: int, data: list[Figure], x: Figure, y: Figure, **options: Any) -> Figure:
    look = {"template": {"layout": _LOOK}, "height": height, "xaxis": x, "yaxis": y}
    return {"data": data, "layout": look | options}


def _scatter(
    name: str,
    x: Sequence[float],
    y: Sequence[float],
    texts: Iterable[str] = (),
    hover: str = "",
    **options: Any,
) -> Figure:
    trace = {"type": "scatter", "mode": "markers", "name": safe(name), "x": x, "y": y}
    trace |= {"text": [safe(text) for text in texts], "hovertemplate": hover}
    return trace | options


def _curve(curve: Curve, names: Sequence[str], values: Sequence[float], scale: Scale) -> Figure:
    name = policy_text(curve.setting, without=curve.option)
    color, dash, symbol = _LINES[names.index(name) % len(_LINES)]
    x = [values.index(value) for value in curve.values]
    y = [score * scale.factor for score in curve.scores]
    texts = [f"{option_word(curve.option)} {value:g}" for value in curve.values]
    trace = _scatter(name, x, y, texts, _hover(scale), mode="lines+markers")
    trace["line"] = {"color": color, "dash": dash, "width": 2}
    trace["marker"] = {"color": color, "symbol": symbol, "size": 7}
    errors = [error * scale.factor for error in curve.standard_errors]
    error = {"type": "data", "array": errors, "color": color, "thickness": 1, "width": 2}
    return trace | {"error_y": error}


def _points(points: pd.DataFrame, scale: Scale, aside: float = 1.0) -> Figure:
    first = points.iloc[0]
    x = [tokens * aside for tokens in points.tokens]
    y = [mean * scale.factor for mean in points["mean"]]
    texts = [f"{row.kept}: {row.setting}" for row in points.itertuples()]
    trace = _scatter(first.label, x, y, texts, _hover(scale))
    trace["marker"] = {"color": first.color, "symbol": first.symbol, "size": 10}
    return trace | {"error_y": _error(list(points.itertuples()), scale, first.color)}


def _hover(scale: Scale, axis: str = "y:") -> str:
    digits = ".1f" if scale.percent else ".3f"
    return f"%{{text}}<br>score %{{{axis}{digits}}}<extra>%{{fullData.name}}</extra>"


def _rule(line: Figure, *, x0: float, y0: float, **ends: Any) -> Figure:
    ends = {"x0": x0, "x1": x0, "y0": y0, "y1": y0} | ends
    return {"type": "line", "layer": "below", "line": line, **ends}


def _title(text: str) -> Figure:
    return {"title": {"text": text}}


def _score_axis(scale: Scale) -> Figure:
    return _title("score, %" if scale.percent else "score")


def _error(intervals: Sequence[Interval], scale: Scale, color: str) -> Figure:
    up = [(i.high - i.mean) * scale.factor for i in intervals]
    down = [(i.mean - i.low) * scale.factor for i in intervals]
    look = {"type": "data", "symmetric": False, "color": color, "thickness": 1.5, "width": 4}
    return look | {"array": up, "arrayminus": down}
