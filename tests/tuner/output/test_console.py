"""What a terminal shows: the answer's numbers, and the best so far of each budget."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from resprune.setting import Setting
from tuner.output import RichProgress, show_results
from tuner.results.schema import TrialResult


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=160)


def said(console):
    return console.file.getvalue()


def trial(number, budget, alpha, score):
    setting = Setting.of("resprune", budget, alpha=alpha)
    return TrialResult(
        number=number, setting=setting, tokens=budget, cost=budget, score=score, seconds=1
    )


def test_the_answer_has_a_row_for_each_budget(console, results):
    console.width = 80
    show_results(results, Path("runs/nano-llava"), console)
    lines = {}
    for line in said(console).splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if cells and cells[0]:
            lines[cells[0]] = cells
        elif cells:  # the row goes on
            row = lines[next(reversed(lines))]
            row[:] = [f"{one} {more}".strip() for one, more in zip(row, cells, strict=True)]
    assert set(lines) == {"196", "22", "11 *", "6"}
    for place, kind in (("22", "tuned"), ("11 *", "adaptive"), ("6", "adaptive")):
        tokens = int(place.split()[0])
        (row,) = [r for r in results.report if (r.kind, r.tokens) == (kind, tokens)]
        _, score, unpruned, strongest, setting = lines[place]
        assert score.startswith(f"{100 * row.score.mean:.1f} % {100 * row.score.low:.1f} to ")
        assert ", worse " in unpruned
        assert unpruned.endswith(f"{100 * abs(row.versus_unpruned.high):.1f}")
        assert strongest.startswith(f"+{100 * row.versus_strongest.mean:.1f}, better +")
        assert strongest.endswith(f"{100 * row.versus_strongest.high:.1f} l2_norm")
        assert ("alpha by prompt" in setting) == (kind == "adaptive")
    assert "runs/nano-llava/config" in said(console)
    assert results.notes[0] in said(console)


def test_the_best_so_far_is_said_for_each_budget(console):
    with RichProgress(console) as progress:
        progress.stage("trials")
        for number, budget, alpha, score in (
            (0, 11, 0.5, 0.7),
            (1, 22, 1.0, 0.8),
            (2, 11, 2.0, 0.6),
        ):
            progress.trial(trial(number, budget, alpha, score), number + 1, 3)
    assert "Trials on the tune split" in said(console)
    assert (
        "trial 3 of 3; best 22: 0.800 (resprune, alpha 1, seed l2_norm); "
        "11: 0.700 (resprune, alpha 0.5, seed l2_norm)"
    ) in said(console)


def test_texts_of_a_method_are_no_markup_of_the_terminal(console, monkeypatch, results):
    monkeypatch.setattr("tuner.output.console.policy_text", lambda *_: "[red]x[/red]")
    monkeypatch.setattr("tuner.output.frame.policy_text", lambda *_: "[red]y[/red]")
    with RichProgress(console) as progress:
        progress.trial(trial(0, 11, 0.5, 0.7), 1, 1)
    assert "[red]x[/red]" in said(console)
    show_results(results, Path("runs/nano-llava"), console)
    assert said(console).count("[red]y[/red]") == 3  # a row a budget
