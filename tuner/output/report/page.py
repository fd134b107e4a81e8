"""What the report page draws and looks up; `report.html.j2` sets it."""

from __future__ import annotations

import json

import pandas as pd

from resprune.alpha import FEATURES
from tuner.output import wording
from tuner.output.frame import rows_frame
from tuner.output.plots import Plots
from tuner.output.report import figures
from tuner.output.report.drawing import drawing
from tuner.output.report.figures import Figure
from tuner.output.templates import rendered
from tuner.output.wording import Scale, option_word
from tuner.results.rows import KINDS, RowKind
from tuner.results.schema import AdaptiveRow, Results

_FEATURES = 12  # shown, of those the predictor reads


def render(results: Results, study_toml: str | None = None) -> str:
    """Return the report of a study as one HTML page that loads nothing.

    Args:
        results: What the study found.
        study_toml: The study file, shown as it is; None shows the results' own copy.

    Returns:
        The page.
    """
    scale, rows = Scale.of(results), rows_frame(results)
    report = rows[rows.split == "report"]

    weights = sorted(results.feature_weights, key=lambda w: -w.weight)
    total = sum(w.weight for w in weights)
    shares = {w.name: w.weight / total for w in weights[:_FEATURES] if w.weight > 0}
    return rendered(
        "report/report.html.j2",
        results,
        study_text=study_toml or json.dumps(results.study, indent=2, ensure_ascii=False),
        pareto=figures.pareto(results, report, scale),
        curves=[
            (option, split, figures.curves(results, scale, option, split))
            for option, split in dict.fromkeys((c.option, c.split) for c in results.curves)
        ],
        arms=[(f"{row.tokens} tokens", _arms(row)) for row in results.adaptive],
        weights=_bars(shares, "adaptive") if shares else None,
        features={option_word(name): FEATURES[name] for name in shares if name in FEATURES},
        changes=_changes(report),
        budgets=sorted(
            report[report.by_group.astype(bool) & (report.kind != "unpruned")].budget.unique(),
            key=lambda budget: budget != str(results.recommended),
        ),
        drawing=drawing,
        same=lambda *texts: len({t.strip().strip(".").casefold() for t in texts}) == 1,
        importances=[(m, list(map(option_word, o))) for m, o in results.importances.items() if o],
        **Plots().script(),
    )


def _arms(row: AdaptiveRow) -> Figure:
    """How often the predictor chose each arm at one budget; the fallback in blue."""
    names = wording.arms_text(row.policy)
    colors = [KINDS["adaptive"].color] * len(names)
    colors[row.policy.fallback] = KINDS["tuned"].color
    total = sum(row.chosen) or 1
    return figures.bars(names, [count / total for count in row.chosen], colors)


def _bars(shares: dict[str, float], kind: RowKind) -> Figure:
    names = sorted(shares, key=lambda name: -shares[name])
    color = KINDS[kind].color
    words = [option_word(name) for name in names]
    return figures.bars(words, [shares[name] for name in names], [color] * len(names))


def _changes(report: pd.DataFrame) -> list[tuple[float, str]]:
    """How each kind of question changes by the recommended policy, the worst first."""
    whole, pruned = (
        {group: score.mean for row in rows.by_group for group, score in row.items()}
        for rows in (report[report.kind == "unpruned"], report[report.recommended])
    )
    return sorted((pruned[group] - whole[group], group) for group in whole.keys() & pruned.keys())
