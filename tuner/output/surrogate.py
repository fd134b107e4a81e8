"""Whether the surrogate holds, in words, a table and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tuner.output.plots import Plots
from tuner.output.templates import environment
from tuner.output.wording import MINUS
from tuner.output.writing import write_all
from tuner.results.schema import Interval
from tuner.results.surrogate import OUTCOMES, SURROGATE_FILE, Correlation, Outcome, Surrogate
from tuner.surrogate.measures import FORMS, NAMES

PAGE_FILE = "surrogate.html"
HEADS = ("plans", "measure", "within samples", "samples", "over all", "against the best simple one")
NOTE = (
    "Spearman's rho; residual energies have their sign turned, so that over 0 means that a plan "
    "which leaves less gives the better answer. Within samples: the plans of one question ranked "
    "among themselves, mean over questions whose outcomes differ. Over all: every plan of every "
    "question in one ranking, where easy and hard questions count too. Intervals are 95 %, "
    "bootstrap over images. The last column is paired: the same questions ranked by the measure "
    "and by the best of those that know no subspace, picked on these samples, which flatters it."
)
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7d868f")


def verdict(found: Surrogate, outcome: Outcome, plans: str) -> str:
    """Say of plans at one budget whether the residual tells good ones from bad ones."""
    row = found.of("residual", outcome, plans)
    where = f"At {plans} tokens" if plans.isdigit() else f"Over {plans}"
    if row.within is None:
        return f"{where} no question's {outcome} differs between plans."
    rho, versus = row.within, row.difference
    said = "says nothing that could be told from chance"
    if rho.low > 0:
        said = "goes with a better answer"
    elif rho.high < 0:
        said = "goes with a worse answer"
    text = f"{where} a smaller residual {said} ({outcome}, mean rho {_with(rho)})"
    if versus is None or row.baseline is None:
        return f"{text}."
    name = NAMES[row.baseline]
    if versus.low > 0:
        return f"{text}, more than {name} does by {_with(versus)}."
    if versus.high < 0:
        return f"{text}; {name} alone tells more, by {_number(-versus.mean)}."
    return f"{text}; {name} alone tells about as much (difference {_with(versus)})."


def verdicts(found: Surrogate) -> list[str]:
    """Say it of every group of plans and outcome, the residual's rows."""
    return [verdict(found, outcome, plans) for outcome in OUTCOMES for plans in _budgets(found)]


def show_surrogate(found: Surrogate, run_dir: Path, console: Console) -> None:
    """Print the tables and what they say."""
    for outcome in OUTCOMES:
        table = Table(title=f"{outcome}, Spearman's rho", title_justify="left")
        for head in HEADS:
            table.add_column(head, justify="left" if head in HEADS[:2] else "right")
        before = None
        for row in found.rows:
            if row.outcome == outcome:
                name, *cells = _cells(row)
                table.add_row("" if name == before else name, *cells)
                before = name
        console.print(table, markup=False)
    for text in (*verdicts(found), NOTE):
        console.print(text, markup=False, highlight=False)
    for name in (SURROGATE_FILE, PAGE_FILE):
        console.print(run_dir / name, markup=False)


def write_surrogate(found: Surrogate, run_dir: Path) -> None:
    """Write JSON and the page into a run folder; see ``write_all``."""
    write_all(run_dir, {SURROGATE_FILE: found.model_dump(mode="json"), PAGE_FILE: to_page(found)})


def to_page(found: Surrogate) -> str:
    """Return one HTML page that loads nothing."""
    return (
        environment("surrogate.html.j2")
        .get_template("surrogate.html.j2")
        .render(
            found=found,
            study=found.study,
            heads=HEADS,
            parts=[(outcome, dots(found, outcome), _table(found, outcome)) for outcome in OUTCOMES],
            verdicts=verdicts(found),
            note=NOTE,
            **Plots().script(),
        )
    )


def dots(found: Surrogate, outcome: Outcome) -> dict[str, Any]:
    """Draw the mean rho within samples of every measure, a colour a group of plans."""
    groups = _budgets(found)  # those of ResPrune's options alone are in the table
    names = [m for m in NAMES if any(row.measure == m for row in found.rows)]
    data = []
    for place, group in enumerate(groups):
        rows = [r for r in found.rows if (r.outcome, r.plans) == (outcome, group) and r.within]
        means = [row.within for row in rows if row.within]
        shift = 0.6 * ((place + 0.5) / len(groups) - 0.5)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"{group} tokens" if group.isdigit() else group,
                "x": [one.mean for one in means],
                "y": [names.index(row.measure) + shift for row in rows],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [one.high - one.mean for one in means],
                    "arrayminus": [one.mean - one.low for one in means],
                },
                "marker": {"color": _COLORS[place % len(_COLORS)], "size": 8},
                "hovertemplate": "rho %{x:.2f}<extra>%{fullData.name}</extra>",
            }
        )
    zero = {"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1}
    last = len([m for m in names if m in FORMS]) - 0.5
    border = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": last, "y1": last}
    return {
        "data": data,
        "layout": {
            "height": 120 + 70 * len(names),
            "xaxis": {"title": {"text": "mean rho within samples, 95 %; right is as hoped"}},
            "yaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": [NAMES[name] for name in names],
                "range": [len(names) - 0.5, -0.5],
            },
            "shapes": [
                zero | {"line": {"color": "#333333", "width": 1}, "layer": "below"},
                border | {"line": {"color": "#9aa9b8", "width": 1, "dash": "dot"}},
            ],
            "showlegend": True,
        },
    }


def _budgets(found: Surrogate) -> list[str]:
    names = dict.fromkeys(row.plans for row in found.rows)
    return [name for name in names if not name.startswith("resprune")]


def _table(found: Surrogate, outcome: Outcome) -> list[list[str]]:
    return [_cells(row) for row in found.rows if row.outcome == outcome]


def _cells(row: Correlation) -> list[str]:
    plans = f"{row.plans} tokens" if row.plans[-1].isdigit() else row.plans
    return [
        plans,
        NAMES[row.measure],
        "-" if row.within is None else _with(row.within),
        f"{row.samples:,}",
        "-" if row.overall is None else _with(row.overall),
        "-" if row.difference is None else f"{NAMES[row.baseline or '']}: {_with(row.difference)}",
    ]


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)


def _with(one: Interval) -> str:
    return f"{_number(one.mean)} ({_number(one.low)} to {_number(one.high)})"
