"""What ``resprune-tune run`` shows: progress with the best so far, and the answer at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from resprune.budget import Count, Energy, Ratio
from tuner.output import certified, efficiency, wording
from tuner.output.frame import acts_inside, rows_frame
from tuner.output.wording import Scale, policy_text
from tuner.results.schema import Comparison, Results, TrialResult

if TYPE_CHECKING:
    from tuner.predict import PredictResult

_TITLES = {
    "load": "Loading the model and the samples",
    "trials": "Trials on the tune split",
    "settings": "Settings at equal tokens and at equal cost",
    "curves": "Curves on the tune split",
    "baselines": "Baselines on the tune split",
    "adaptive": "Outcomes of the arms on the fit split",
    "alpha predictor": "Fitting the predictor",
    "pilot": "Pilot on the tune split",
    "certify": "Testing what was chosen on the certify split",
    "report": "Scoring what was chosen on the report split",
    "plans": "Measuring what plans leave",
    "outcomes": "Answering every plan",
    "correlations": "Correlating",
    "efficiency": "Measuring speed and memory",
}


class RichProgress(Bar):
    """A line a stage, a bar within it, and the best score of each budget so far.

    Args:
        console: Where to write; standard error, so that standard output stays clean.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._line = self.add_task("", total=None)
        self._begin = time.perf_counter()
        self._best: dict[Count | Ratio | Energy, TrialResult] = {}
        self._in_trials = False

    def stage(self, name: str) -> None:
        """Name the stage that begins."""
        self._in_trials = name == "trials"
        elapsed = time.perf_counter() - self._begin
        self.console.print(f"[dim]{elapsed:6.1f} s[/]  {_TITLES.get(name, name)}")
        self.reset(self._line, total=None, description="")

    def step(self, done: int, total: int) -> None:
        """Move the bar (trials move it themselves)."""
        if not self._in_trials:
            self.update(self._line, completed=done, total=total)

    def trial(self, trial: TrialResult, done: int, total: int) -> None:
        """Move the bar and show the best so far."""
        best = self._best.setdefault(trial.setting.budget, trial)
        if trial.score > best.score:
            self._best[trial.setting.budget] = trial
        shown = "; ".join(
            f"{budget}: {found.score:.3f} ({escape(policy_text(found.setting))})"
            for budget, found in sorted(self._best.items(), key=lambda item: -item[1].tokens)
        )
        self.update(self._line, completed=done, total=total, description=f"best {shown}")
        if done % 20 == 0 or done == total:
            self.console.print(f"          trial {done} of {total}; best {shown}")


def show_results(results: Results, run_dir: Path, console: Console) -> None:
    """Print the answer: a row a budget, then where the files are."""
    scale, rows = Scale.of(results), rows_frame(results)
    inside = acts_inside(rows)
    heads = ["tokens", "score", "against all tokens", "against the strongest baseline"]
    if inside:
        heads.insert(1, "cost")
    columns = [Column(head, justify="right") for head in heads]
    table = Table(*columns, "setting", title="Report split, 95 % intervals", title_justify="left")
    shown = rows[(rows.split == "report") & (rows.exported | (rows.kind == "unpruned"))]
    for row in shown.itertuples():
        table.add_row(
            f"{row.tokens or ''}{' *' if row.recommended else ''}",
            *([f"{row.cost:.1f}" if row.cost else ""] if inside else []),
            f"{scale.number(row.mean)}{scale.unit}\n{scale.range(row)}",
            _difference(scale, row.versus_unpruned),
            _difference(scale, row.versus_strongest, named=True),
            row.setting,
        )
    console.print(table, markup=False)
    for sentence in (
        wording.COST if inside else "",
        certified.promise(results, scale),
        certified.nearest(results, scale),
        efficiency.headline(results),
    ):
        if sentence:
            console.print(sentence, markup=False, highlight=False)
    for note in results.notes:
        console.print(f"- {note}", markup=False, highlight=False)
    console.print(f"\n* recommended.  Config: {run_dir / 'config'}", markup=False)
    console.print(f"Report: {run_dir / 'report.html'}", markup=False)


def _difference(scale: Scale, one: Comparison | None, *, named: bool = False) -> str:
    """Write a comparison in short lines, so that a table of 80 columns holds it."""
    if one is None:
        return "-"
    lines = [f"{scale.signed(one.mean)}, {one.verdict}", scale.signed_range(one)]
    return "\n".join([*lines, one.against] if named else lines)


def show_prediction(result: PredictResult, console: Console) -> None:
    """Print both answers and what was kept."""
    heads = ("", "answer", "visual tokens")
    table = Table(*heads, title=escape(result.question), title_justify="left")
    for name, answer, tokens in (
        ("unpruned", result.unpruned, result.visual_tokens),
        ("pruned", result.pruned, result.tokens_kept),
    ):
        table.add_row(name, answer, str(tokens))
    console.print(table, markup=False)
    nouns = ", ".join(result.nouns) or "none"
    how = " (chosen for this prompt)" if result.adaptive else ""
    if result.outside:
        how = " (not a prompt like those it was fitted on: one setting)"
    console.print(f"nouns: {nouns}; {policy_text(result.setting)}{how}", markup=False)
    console.print(f"kept: {result.kept}", markup=False)
    console.print("speed and memory: resprune-tune bench CONFIG_DIR", markup=False)
    if result.drawn is not None:
        console.print(f"drawn: {result.drawn}", markup=False)
