"""A whole comparison, small: what is equal, who is tuned how, what failed, and what is written."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from resprune.errors import StudyError
from resprune.methods.cdpruner import CDPruner
from resprune.setting import Setting, unpruned
from tuner.compare.run import compare_study
from tuner.output.compared import CSV_FILE, MARKDOWN_FILE, PAGE_FILE, show_compared
from tuner.results.compared import COMPARED_FILE, Compared, ComparedRow
from tuner.results.statistics import mean_interval
from tuner.search.storage import journal
from tuner.stages.opened import OpenedStudy
from tuner.study import StudyConfig, study_from_dict

BUDGETS = (64, 22)
METHODS = ("resprune", "l2_norm", "pool", "fastv", "downsample", "cdpruner")
TRIALS = 5
T, DEPTH = 196, 4


def make(name: str = "compared", **task: Any) -> StudyConfig:
    return study_from_dict(
        {
            "study": {"name": name, "trials": TRIALS, "objective": {"kind": "pareto"}},
            "backbone": {"model": "nano-llava", "device": "cpu"},
            "task": {
                "name": "nano-scenes",
                "tune": {"split": "tune", "samples": 16},
                "report": {"split": "report", "samples": 192, **task},
            },
            "search": {"method": list(METHODS), "budget": list(BUDGETS)},
        }
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compared, Path]:
    """The comparison, in which cdpruner fails whenever it is asked, and its runs folder."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CDPruner, "select", _fails)
        return compare_study(make(), runs), runs


def _fails(*_: Any) -> Any:
    raise RuntimeError("out of memory\nand much more")


def rows(found: Compared, **where: Any) -> list[ComparedRow]:
    return [r for r in found.rows if all(getattr(r, k) == v for k, v in where.items())]


def test_every_method_has_a_row_in_every_table(found: tuple[Compared, Path]) -> None:
    counts = Counter((r.method, str(r.budget), r.basis, r.which) for r in found[0].rows)
    assert set(counts.values()) == {1}
    assert len(counts) == len(METHODS) * len(BUDGETS) * 4


def test_each_method_had_the_same_number_of_trials(found: tuple[Compared, Path]) -> None:
    import optuna

    with journal(found[1] / "compared") as storage:
        studies = {
            name: optuna.load_study(study_name=f"compared.{name}", storage=storage)
            for name in METHODS
            if name not in ("downsample", "cdpruner")
        }
    done = (optuna.trial.TrialState.COMPLETE,)
    counts = {name: len(study.get_trials(states=done)) for name, study in studies.items()}
    assert set(counts.values()) == {TRIALS}


def test_what_fails_or_does_not_fit_is_a_row_that_says_why(found: tuple[Compared, Path]) -> None:
    for row in rows(found[0], method="downsample"):
        assert row.score is None
        assert "not comparable on this model" in str(row.error)
    for row in rows(found[0], method="cdpruner"):
        assert (row.score, row.error) == (None, "out of memory")
    for row in rows(found[0], method="fastv", basis="cost"):
        if row.tokens is None:
            assert str(row.budget) == "22"
            assert "runs 49.75 of 196 visual tokens a layer at the least" in str(row.error)
    assert all(r.error is None and r.score for r in rows(found[0], method="pool"))


def test_at_equal_cost_as_many_are_left_as_the_budget_pays_for(
    found: tuple[Compared, Path],
) -> None:
    for which in ("tuned", "published"):
        (row,) = [r for r in rows(found[0], method="fastv", basis="cost", which=which) if r.tokens]
        assert row.setting is not None
        first = max(1, round(row.setting.option("layer") * DEPTH / 32))
        per_layer = [[T] * first + [k] * (DEPTH - first) for k in range(1, T + 1)]
        most = max(k for k, each in enumerate(per_layer, 1) if sum(each) / DEPTH <= 64)
        assert row.tokens == most
        assert row.cost == sum(per_layer[most - 1]) / DEPTH <= 64
    # before the LLM equal tokens are equal cost
    for one in rows(found[0], basis="tokens", method="l2_norm"):
        (other,) = rows(
            found[0], basis="cost", method="l2_norm", budget=one.budget, which=one.which
        )
        assert other.model_copy(update={"basis": "tokens"}).setting == one.setting
        assert other.score == one.score


def test_scores_are_those_of_the_split_and_differences_are_paired(
    found: tuple[Compared, Path], tmp_path: Path
) -> None:
    results = found[0]
    with OpenedStudy(make(), tmp_path, leave_out=True) as opened:
        tune, report = opened.split("tune"), opened.split("report")
        pool = {b: report.score(Setting.of("pool", b)) for b in BUDGETS}
        images = np.array(report.images)
        assert results.unpruned.mean == pytest.approx(report.score(unpruned()).mean())
        for budget in results.budgets:
            for basis in ("tokens", "cost"):
                for which in ("tuned", "published"):
                    table = [r for r in results.table(budget, basis, which) if r.setting]
                    scores = {r.method: report.score(r.setting) for r in table if r.setting}
                    on_tune = {r.method: tune.score(r.setting).mean() for r in table if r.setting}
                    (best,) = [r.method for r in table if r.best]
                    assert on_tune[best] == max(on_tune.values())
                    wrong = np.flatnonzero(pool[budget.limit(T)] < 0.5)
                    for row in table:
                        assert row.score is not None
                        own = scores[row.method]
                        assert row.score.mean == pytest.approx(own.mean())
                        assert row.tune_score == pytest.approx(on_tune[row.method])
                        assert row.wrong is not None
                        assert row.wrong.mean == pytest.approx(own[wrong].mean())
                        if row.best:
                            assert row.verdict == "best"
                            continue
                        assert row.versus_best is not None
                        expected = mean_interval(own, scores[best], images)
                        assert row.versus_best.mean == pytest.approx(expected.mean)
                        assert row.versus_best.low == pytest.approx(expected.low)
                        apart = {"win": 1, "loss": -1, "tie": 0}[row.verdict]
                        assert apart == 0 or np.sign(expected.mean) == apart
    assert {row.verdict for row in results.rows if row.score} >= {"best", "tie", "loss"}
    assert [c.samples for c in results.controls] == [int((pool[b] < 0.5).sum()) for b in BUDGETS]


def test_published_is_published_and_tuned_is_one_of_the_trials(
    found: tuple[Compared, Path],
) -> None:
    for row in rows(found[0], which="published", basis="tokens"):
        if row.setting is None or row.method == "resprune":
            continue
        assert row.setting == Setting.of(row.method, row.budget)
    for row in rows(found[0], which="published", basis="tokens", method="resprune"):
        assert row.setting is not None
        assert row.setting.option("alpha") == 0.75
    tuned = rows(found[0], which="tuned", basis="tokens", method="resprune")
    assert all(row.tune_score is not None for row in tuned)


def test_a_second_run_asks_the_model_for_nothing(
    found: tuple[Compared, Path], tmp_path: Path
) -> None:
    shutil.copytree(found[1] / "compared", tmp_path / "compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CDPruner, "select", _fails)
        again = compare_study(make(), tmp_path)
    assert again.prefills == 0 < found[0].prefills
    assert again.rows == found[0].rows


def test_report_images_are_not_looked_at_twice_with_other_choices(
    found: tuple[Compared, Path], tmp_path: Path
) -> None:
    shutil.copytree(found[1] / "compared", tmp_path / "compared")
    with pytest.raises(StudyError, match="--report-offset 192"):  # cdpruner works now
        compare_study(make(), tmp_path)


def test_the_files_hold_every_row_and_load_nothing(found: tuple[Compared, Path]) -> None:
    results, runs = found
    folder = runs / "compared"
    kept = Compared.model_validate(json.loads((folder / COMPARED_FILE).read_text()))
    assert kept.rows == results.rows
    lines = list(csv.DictReader(io.StringIO((folder / CSV_FILE).read_text())))
    assert len(lines) == len(results.rows)
    for line, row in zip(lines, results.rows, strict=True):
        assert line["method"] == row.method
        assert line["verdict"] == (row.verdict if row.score else "")
        assert line["score_mean"] == (str(round(row.score.mean, 6)) if row.score else "")
        assert bool(line["first_token_ms"]) == (row.setting is not None and row.error is None)
    page = (folder / PAGE_FILE).read_text()
    for row in results.rows:
        assert row.label in page
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", markup)
    assert page.count('class="plot"') == 3 + len(BUDGETS)
    markdown = (folder / MARKDOWN_FILE).read_text()
    assert markdown.count("| resprune |") == 4
    console = Console(file=io.StringIO(), width=160)
    show_compared(results, folder, console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "fastv (scaled)" in said
    assert "cdpruner: out of memory\n" in said


def test_scores_are_also_said_in_percent_of_the_unpruned(found: tuple[Compared, Path]) -> None:
    whole = found[0].unpruned.mean
    for row in found[0].rows:
        if row.score is None:
            assert row.relative is None
        else:
            assert row.relative is not None
            assert row.relative.mean == pytest.approx(100 * row.score.mean / whole)
            assert row.relative.low <= row.relative.mean <= row.relative.high
