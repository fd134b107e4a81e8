"""The mean relative score over tasks, against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from resprune.budget import Count
from resprune.errors import StudyError
from resprune.setting import Setting
from tests.tuner.test_cli import call
from tuner.output.across import to_csv, to_markdown
from tuner.results.across import across
from tuner.results.compared import Compared, ComparedRow
from tuner.results.schema import Interval, ModelInfo, SplitInfo
from tuner.results.statistics import mean_of, relative


def interval(mean: float, below: float, above: float) -> Interval:
    return Interval(mean=mean, low=mean - below, high=mean + above)


def compared(name: str, whole: float, scores: dict[str, float | None], **more: Any) -> Compared:
    rows = [
        ComparedRow(
            method=method,
            budget=Count(count=budget),
            basis=basis,
            which=which,
            setting=Setting.of("l2_norm", budget),
            score=None if score is None else interval(score, 0.02, 0.02),
            relative=None
            if score is None
            else relative(interval(score - whole, 0.02, 0.04), whole),
        )
        for budget in more.get("budgets", (64, 22))
        for basis in ("tokens", "cost")
        for which in ("tuned", "published")
        for method, score in scores.items()
    ]
    split = SplitInfo(name="s", samples=9, images=9)
    return Compared(
        study={"study": {"name": name}, "task": {"metric": "score"}},
        model=ModelInfo(
            id=more.get("model", "m"), family="llava", revision=None, visual_tokens=9, width=9
        ),
        environment={},
        splits={"tune": split, "report": split},
        report_openings=1,
        groups=["all"],
        unpruned=interval(whole, 0.01, 0.01),
        unpruned_by_group={},
        controls=[],
        rows=rows,
        efficiency=None,
        seconds={},
        prefills=0,
    )


FOUND = [
    compared("a", 0.8, {"x": 0.4, "y": 0.8, "z": 0.9}),
    compared("b", 0.5, {"x": 0.5, "y": 0.25, "z": None}),
]


def test_the_mean_is_of_shares_of_the_unpruned_score() -> None:
    found = across(FOUND)
    (x, y, z) = found.table(Count(count=22), "tokens", "tuned")
    assert (x.method, y.method, z.method) == ("x", "y", "z")
    assert x.tasks["a"].mean == pytest.approx(50.0)
    assert x.tasks["b"].mean == pytest.approx(100.0)
    assert x.mean.mean == pytest.approx(75.0)
    assert y.mean.mean == pytest.approx(75.0)
    assert z.mean is None  # a task without a score
    # 2.5 and 4 points below, 5 and 8 above: roots of the sums of squares, over two
    assert x.mean.low == pytest.approx(75 - math.hypot(2.5, 4.0) / 2)
    assert x.mean.high == pytest.approx(75 + math.hypot(5.0, 8.0) / 2)


def test_one_task_is_its_own_mean() -> None:
    one = interval(90.0, 1.0, 3.0)
    assert mean_of([one]).model_dump() == pytest.approx(one.model_dump())


def test_other_models_budgets_and_names_are_refused() -> None:
    for other, message in (
        (compared("b", 0.5, {"x": 0.5}, model="n"), "b: model n, and a has m"),
        (compared("b", 0.5, {"x": 0.5}, budgets=(64,)), r"b: budgets \['64'\]"),
        (compared("a", 0.5, {"x": 0.5}), "named twice"),
    ):
        with pytest.raises(StudyError, match=message):
            across([FOUND[0], other])


def test_files_hold_every_row() -> None:
    found = across(FOUND)
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert len(rows) == len(found.rows) == 24
    assert float(rows[0]["mean"]) == pytest.approx(75.0)
    assert rows[2]["mean"] == rows[2]["b_low"] == ""
    assert "| x | 75.0 % (72.6 to 79.7) | 50.0 % (47.5 to 55.0) | 100.0 %" in to_markdown(found)


def test_the_command_says_it_of_several_studies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter(FOUND)
    monkeypatch.setattr("tuner.compare.run.compare_study", lambda *_: next(given))
    studies = ("nano-llava-compare", "nano-llava-methods")
    code, out, err = call(capsys, "compare", *studies, "--runs", tmp_path, "--json")
    assert code == 0, err
    assert json.loads(out)["rows"][0]["mean"]["mean"] == pytest.approx(75.0)
    assert {path.name for path in (tmp_path / "across").iterdir()} == {
        "across.json",
        "across.csv",
        "across.md",
    }
