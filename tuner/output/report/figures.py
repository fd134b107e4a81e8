"""The report's figures as plain plotly dictionaries; `report.html.j2` has what they share.

Plotly reads markup in texts, so every text that comes from a study passes through `safe`.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from resprune.setting import Setting, fixed
from tuner.output.frame import acts_inside
from tuner.output.wording import Scale, kept_text, option_word, policy_text
from tuner.results.rows import BASELINES, KINDS, RowKind
from tuner.results.schema import Curve, Results, TrialResult

Figure = dict[str, Any]
_SPREAD = 0.03  # trials at one budget are drawn up to 3 % to either side
_ASIDE = 0.17  # and rows of one budget up to 17 %
# the lines of a figure share a kind: told apart by colour, symbol and dash
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
    """Return the trials that no other beats, least cost first (the Pareto front)."""
    best: list[TrialResult] = []
    for trial in sorted(trials, key=lambda t: (t.cost, -t.score)):
        if not best or trial.score > best[-1].score:
            best.append(trial)
    return best


def pareto(results: Results, report: pd.DataFrame, scale: Scale) -> Figure:
    """Draw score against visual tokens: trials, their front, and the rows of the report split."""
    trials, best = results.trials, front(results.trials)
    spread = np.random.default_rng(0).uniform(1 - _SPREAD, 1 + _SPREAD, len(trials))
    dots = _trace(
        "Trial, tune split",
        [trial.cost * aside for trial, aside in zip(trials, spread, strict=True)],
        [trial.score for trial in trials],
        scale,
        [f"trial {trial.number}: {policy_text(trial.setting)}" for trial in trials],
    )
    x, y = [trial.cost for trial in best], [trial.score for trial in best]
    line = _trace("Best trials (the front)", x, y, scale)
    data = [
        dots | {"marker": {"color": "#c3ccd6", "size": 6}},
        line | {"mode": "lines", "hoverinfo": "skip", "line": {"color": "#9aa9b8"}},
    ]
    shown = report[report.cost > 0]
    series = [
        points
        for kind in KINDS
        if kind != "unpruned"
        for _, points in shown[shown.kind == kind].groupby("label", sort=False)
    ]
    symbols = {kind: itertools.cycle(look.symbols) for kind, look in KINDS.items()}
    asides = np.geomspace(1 / (1 + _ASIDE), 1 + _ASIDE, len(series))
    for points, aside in zip(series, asides.tolist(), strict=True):  # side by side at one budget
        kind = points.kind.iloc[0]
        trace = _points(points, scale, aside)
        trace["marker"] |= {"symbol": next(symbols[kind])}
        if kind in BASELINES:
            trace["marker"] |= {"size": 8}
            trace |= {"opacity": 0.75}
        data.append(trace)
    whole = shown[shown.kind == "unpruned"]
    shapes = []
    if len(whole):
        data.append(_points(whole, scale))
        shapes.append(_rule("unpruned", xref="paper", x0=0, x1=1, y0=data[-1]["y"][0]))
    # one tick a budget; counts of single trials would be too many where they follow the image
    ticks = sorted({round(n) for n in (*shown[shown.exported].cost, *whole.cost)})
    where = "averaged over the LLM's layers" if acts_inside(report) else "kept per image"
    x_axis = _axis(f"visual tokens {where} (log scale)")
    x_axis |= {"type": "log", "tickvals": ticks, "ticktext": [str(n) for n in ticks]}
    return _figure(540, data, x_axis, _score_axis(scale), shapes=shapes, showlegend=True)


def curves(results: Results, scale: Scale, option: str, split: str) -> list[tuple[str, Figure]]:
    """Draw score over one option's values: a caption and a figure for each budget."""
    here = [c for c in results.curves if (c.option, c.split) == (option, split)]
    names = list(dict.fromkeys(policy_text(c.setting, without=option) for c in here))
    values = sorted({value for curve in here for value in curve.values})
    scores = [score * scale.factor for curve in here for score in curve.scores]
    room = 0.06 * (max(scores) - min(scores)) + 1e-9
    y_axis = _score_axis(scale) | {"range": [min(scores) - room, max(scores) + room]}
    x_axis = _axis(option_word(option))
    x_axis |= {"tickvals": list(range(len(values))), "ticktext": [f"{v:g}" for v in values]}
    marks: list[tuple[RowKind, Setting]] = [("tuned", c.setting) for c in results.chosen]
    marks += [(r.kind, fixed(r.policy)) for r in results.report if r.kind == "paper-default"]
    found = []
    for first in sorted({c.setting.budget: c for c in here}.values(), key=lambda c: -c.tokens):
        budget = first.setting.budget
        lines = [c for c in here if c.setting.budget == budget]
        methods = {c.setting.method for c in lines}
        shapes = [
            _rule(kind, yref="paper", x0=_place(setting.option(option), values), y0=0, y1=1)
            for kind, setting in marks
            if setting.budget == budget and setting.method in methods
        ]
        data = [_curve(c, names, values, scale) for c in lines]
        best = max(pair for c in lines for pair in zip(c.scores, c.values, strict=True))[1]
        caption = kept_text(first.setting, first.tokens, results.model.visual_tokens)
        caption += f", best at {best:g}" + (f": {names[0]}" if len(names) == 1 else "")
        figure = _figure(300, data, x_axis, y_axis, shapes=shapes, showlegend=len(names) > 1)
        found.append((caption, figure))
    return found


def bars(names: Sequence[str], shares: Sequence[float], colors: Sequence[str]) -> Figure:
    """Draw shares, in [0, 1], as horizontal bars in percent, the first on top."""
    data = {
        "type": "bar",
        "orientation": "h",
        "x": [100 * share for share in shares],
        "y": [safe(name) for name in names],
        "marker": {"color": list(colors)},
        "texttemplate": "%{x:.0f} %",
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
    }
    x_axis = _axis("%") | {"range": [0, 115 * (max(shares) or 1.0)]}
    y_axis = {"type": "category", "autorange": "reversed", "showgrid": False}
    return _figure(70 + 30 * len(names), [data], x_axis, y_axis, bargap=0.35)


def _figure(height: int, data: list[Figure], x: Figure, y: Figure, **options: Any) -> Figure:
    return {"data": data, "layout": {"height": height, "xaxis": x, "yaxis": y, **options}}


def _trace(
    name: str, x: Iterable[float], scores: Iterable[float], scale: Scale, texts: Iterable[str] = ()
) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": safe(name),
        "x": list(x),
        "y": [score * scale.factor for score in scores],
        "text": [safe(text) for text in texts],
        "hovertemplate": f"%{{text}}<br>score %{{y:.{scale.digits}f}}"
        "<extra>%{fullData.name}</extra>",
    }


def _curve(curve: Curve, names: Sequence[str], values: Sequence[float], scale: Scale) -> Figure:
    name = policy_text(curve.setting, without=curve.option)
    color, dash, symbol = _LINES[names.index(name) % len(_LINES)]
    texts = [f"{option_word(curve.option)} {value:g}" for value in curve.values]
    places = [_place(value, values) for value in curve.values]
    return _trace(name, places, curve.scores, scale, texts) | {
        "mode": "lines+markers",
        "line": {"color": color, "dash": dash},
        "marker": {"symbol": symbol, "size": 7},
        "error_y": {"array": [error * scale.factor for error in curve.standard_errors]},
    }


def _points(points: pd.DataFrame, scale: Scale, aside: float = 1.0) -> Figure:
    first, means = points.iloc[0], points["mean"]
    kind = KINDS[first.kind]
    texts = points.kept + ": " + points.setting
    return _trace(first.label, points.cost * aside, means, scale, texts) | {
        "marker": {"color": kind.color, "symbol": kind.symbols[0], "size": 10},
        "error_y": {
            "symmetric": False,
            "array": list((points.high - means) * scale.factor),
            "arrayminus": list((means - points.low) * scale.factor),
        },
    }


def _place(value: float, values: Sequence[float]) -> float:
    """Return where a value stands on an axis whose values are equally far apart."""
    return float(np.interp(value, values, range(len(values))))


def _rule(kind: RowKind, *, x0: float, y0: float, **ends: Any) -> Figure:
    look = {"color": KINDS[kind].color, "width": 2, "dash": "dot"}
    line = {"type": "line", "layer": "below", "line": look}
    return line | {"x0": x0, "x1": x0, "y0": y0, "y1": y0, **ends}


def _axis(title: str) -> Figure:
    return {"title": {"text": title}}


def _score_axis(scale: Scale) -> Figure:
    return _axis(f"score{',' if scale.unit else ''}{scale.unit}")
