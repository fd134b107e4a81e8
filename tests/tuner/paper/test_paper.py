"""The paper's tables: every preset is sound, and one is filled on an embedded model."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from resprune.backbones import names as families
from resprune.errors import StudyError
from resprune.setting import Setting, unpruned
from tuner.cli import app
from tuner.output.paper import show_paper, to_markdown, weights_markdown, write_paper
from tuner.paper.preset import load_preset, preset_names
from tuner.paper.run import _benchmarks, _study, fill_table
from tuner.results.paper import PaperTable
from tuner.results.statistics import mean_interval
from tuner.stages.opened import OpenedStudy

NINE = {
    "GQA", "MMBench", "MMBench-CN", "MME", "POPE", "ScienceQA-IMG", "VQAv2", "TextVQA", "VizWiz"
}  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.paper.run.load_preset", one_model)
        return fill_table("table-4", runs, nano=True, samples=96), runs


def one_model(name):
    found = load_preset(name)
    return found.model_copy(update={"models": found.models[:1]})


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_sound(name):
    preset = load_preset(name)
    assert {benchmark.name for benchmark in preset.benchmarks} == NINE
    assert len({row.label for row in preset.rows}) == len(preset.rows)
    for model in preset.models:
        assert model.family in families()
        assert len(model.budgets) == len(model.nano_budgets)
        for benchmark in preset.benchmarks:
            # a study that could be run with weights and data at hand
            study = _study(name, model, benchmark, False, None)
            assert study.backbone.model == model.id
            assert study.task.report.samples is None  # all there are
            assert _study(name, model, benchmark, False, 100).task.report.samples == 100
    assert weights_markdown(preset, name).startswith("Released weights: not run here")


def test_the_first_three_tables_compare_ten_methods_on_three_families():
    tables = [load_preset(f"table-{n}") for n in (1, 2, 3)]
    assert [t.models[0].family for t in tables] == ["llava", "llava_next", "qwen2_5_vl"]
    for table in tables:
        assert table.rows[0].method == "resprune"
        assert len({row.method for row in table.rows}) == 11
    assert tables[0].rows[0].paper == {"128": 99.3, "64": 98.0}


def test_cells_are_the_scores_of_what_the_paper_names(filled, tmp_path):
    results, _ = filled
    (column,) = results.columns
    rows = {cell.label: cell for cell in column.cells}
    model = load_preset("table-4").models[0]
    assert column.model == model.nano
    ours = {"alpha": 0.75, "seed_strategy": "cls_attention"}
    settings = {
        "no subspace: the highest relevance alone": Setting.of("relevance", 22),
        "no text: alpha 0": Setting.of("resprune", 22, **{**ours, "alpha": 0.0}),
        "full": Setting.of("resprune", 22, **ours),
    }
    assert set(rows) == set(settings)
    (benchmark,) = _benchmarks(load_preset("table-4"), model, True)
    with OpenedStudy(_study("table-4", model, benchmark, True, 96), tmp_path) as opened:
        split = opened.split("report")
        images, whole = np.array(split.images), split.score(unpruned())
        scores = {label: split.score(setting) for label, setting in settings.items()}
    assert column.unpruned.mean == pytest.approx(whole.mean())
    first = scores["full"]
    for label, cell in rows.items():
        assert cell.tokens == 22
        assert cell.score.mean == pytest.approx(scores[label].mean())
        assert cell.relative.mean == pytest.approx(100 * scores[label].mean() / whole.mean())
        low = mean_interval(scores[label], whole, images).low
        assert cell.relative.low == pytest.approx(100 * (1 + low / whole.mean()))
        if label != "full":
            expected = mean_interval(scores[label], first, images).mean
            assert cell.versus_first.mean == pytest.approx(expected)
    assert rows["full"].score.mean > rows["no subspace: the highest relevance alone"].score.mean


def test_it_is_written_and_resumed(filled, tmp_path, monkeypatch):
    results, runs = filled
    paths = write_paper(results, tmp_path)
    assert PaperTable.model_validate(json.loads(paths[0].read_text())) == results
    text = to_markdown(results)
    assert paths[1].read_text() == text
    assert text.count("\n| ") == 1 + 3
    monkeypatch.setattr("tuner.paper.run.load_preset", one_model)
    monkeypatch.setattr(
        "tuner.scoring.llm.Runner._answer", lambda *_: pytest.fail("answers are remembered")
    )
    assert fill_table("table-4", runs, nano=True, samples=96) == results


def test_figures_of_released_weights_stand_beside_no_embedded_model(filled):
    """64 of 196 tokens are not the paper's 64 of 576."""
    (column,) = filled[0].columns
    cells = [cell.model_copy(update={"budget": "64"}) for cell in column.cells]
    shown = filled[0].model_copy(update={"columns": [column.model_copy(update={"cells": cells})]})
    for on, there in (("nano", False), ("weights", True)):
        table = shown.model_copy(update={"on": on})
        console = Console(file=io.StringIO(), width=200)
        show_paper(table, console)
        rows = [line for line in to_markdown(table).splitlines() if line.startswith("| full")]
        assert all(("98.4" in row) == there for row in rows)
        assert ("98.4" in console.file.getvalue()) == there


def test_bad_input_is_named(capsys):
    with pytest.raises(StudyError, match=r"unknown table 'table-5'\. Did you mean 'table-4'"):
        load_preset("table-5")
    with pytest.raises(SystemExit) as stopped:
        app(["paper", "table-4", "--on", "nanno"])
    assert stopped.value.code == 2
    assert "--on: unknown 'nanno'. Did you mean 'nano'" in capsys.readouterr().err
