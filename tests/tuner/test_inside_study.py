"""A whole study that searches a method inside the LLM, small: run, resumed and exported."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from resprune import PruningConfig, attach
from resprune.setting import Setting
from tuner import tasks
from tuner.output import show_results
from tuner.results.schema import Results
from tuner.run import run_study
from tuner.scoring.model import load_backbone
from tuner.study import StudyConfig, load_study, study_from_dict

BUDGETS = (43, 11)
DEPTH = 4


def make(name: str, **search: Any) -> StudyConfig:
    return study_from_dict(
        {
            "study": {"name": name, "trials": 4, "objective": {"kind": "certified", "loss": 0.2}},
            "backbone": {"model": "nano-llava", "device": "cpu"},
            "task": {
                "name": "nano-scenes",
                "tune": {"split": "tune", "samples": 16},
                "fit": {"split": "fit", "samples": 80},
                "certify": {"split": "certify", "samples": 24, "questions_per_image": 1},
                "report": {"split": "report", "samples": 16},
            },
            "search": {"budget": list(BUDGETS), **search},
            "alpha": {"grid": [0.0, 1.0]},
            "report": {"examples": 1},
        }
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders of FastV against uniform tokens, and of FastV behind ResPrune."""
    folder = tmp_path_factory.mktemp("runs")
    run_study(make("fastv", method=["fastv", "uniform"]), folder)
    later = {"method": "fastv", "budget": 11}
    run_study(make("behind", method="resprune", later=later), folder)
    return folder


def layers_run(setting: Setting) -> list[int]:
    """How many visual tokens each of the four layers runs on, by hand."""
    inside = setting.inside
    if inside is None:
        return [setting.budget.limit(196)] * DEPTH
    enter = 196 if setting.later is None else setting.budget.limit(196)
    first = max(1, round(inside.options.layer * DEPTH / 32))  # type: ignore[attr-defined]
    return [enter] * first + [inside.budget.limit(196)] * (DEPTH - first)


@pytest.mark.parametrize("name", ["fastv", "behind"])
def test_every_trial_and_row_says_what_is_left_and_what_it_costs(runs: Path, name: str) -> None:
    found = Results.load(runs / name)
    assert len(found.trials) == (8 if name == "fastv" else 4)
    for each in (*found.trials, *found.chosen):
        counts = layers_run(each.setting)
        assert (each.tokens, each.cost) == (counts[-1], sum(counts) / DEPTH)
    for row in (*found.report, *found.baselines):
        assert isinstance(row.policy, Setting)
        if row.kind == "unpruned":
            assert (row.tokens, row.cost) == (None, None)
            continue
        counts = layers_run(row.policy)
        assert (row.tokens, row.cost) == (counts[-1], sum(counts) / DEPTH)
        assert (row.notes != ()) == (row.policy.inside is not None)
    inside = {trial.setting.method for trial in found.trials if trial.setting.inside}
    assert inside == {"fastv" if name == "fastv" else "resprune"}


def test_a_later_stage_stands_behind_the_baselines_too(runs: Path) -> None:
    """They would run on more tokens than what they are held against."""
    found = Results.load(runs / "behind")
    pruned = [row.policy for row in found.report if row.kind != "unpruned"]
    assert {p.later.method for p in pruned if isinstance(p, Setting) and p.later} == {"fastv"}
    assert all(isinstance(p, Setting) and p.later for p in pruned)
    assert [chosen.setting.budget.limit(196) for chosen in found.chosen] == list(BUDGETS)


def test_a_second_run_asks_the_model_for_nothing(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "fastv", tmp_path / "fastv")
    again = run_study(make("fastv", method=["fastv", "uniform"]), tmp_path)
    first = Results.load(runs / "fastv")
    assert again.cost.prefills == 0 < first.cost.prefills
    assert again.trials == first.trials
    assert again.report == first.report


def test_the_published_setting_is_tried_first(runs: Path) -> None:
    trials = [t.setting for t in Results.load(runs / "fastv").trials if t.setting.method == "fastv"]
    assert trials[:2] == [Setting.of("fastv", budget) for budget in BUDGETS]


def test_what_cannot_be_drawn_or_served_is_said(runs: Path) -> None:
    found = Results.load(runs / "fastv")
    (note,) = [note for note in found.notes if "acts inside the LLM" in note]
    assert "vLLM" in note
    assert not [p for e in found.examples for p in e.panels if p.setting.inside is not None]
    assert [p for e in found.examples for p in e.panels]  # of the paper's default
    assert note.split(":")[0] in (runs / "fastv" / "config" / "README.md").read_text()
    assert Results.load(runs / "behind").examples == []


def test_cost_stands_beside_tokens(runs: Path) -> None:
    found = Results.load(runs / "fastv")
    (chosen,) = [c for c in found.chosen if c.tokens == 43]
    said = f"{chosen.cost:.1f}"
    console = Console(file=io.StringIO(), width=160)
    show_results(found, runs / "fastv", console)
    assert isinstance(console.file, io.StringIO)
    (line,) = re.findall(r"│\s+43[ *]+│.*", console.file.getvalue())
    assert [cell.strip() for cell in line.split("│")][2] == said
    page = (runs / "fastv" / "report.html").read_text()
    assert f"<td>43 of 196 (21.9 %)</td><td>{said}</td>" in page
    assert 'scope="col">cost<' in page
    assert f"| {said} |" in (runs / "fastv" / "config" / "README.md").read_text()


def test_the_exported_config_answers_as_the_report_says(runs: Path) -> None:
    found = Results.load(runs / "fastv")
    config = PruningConfig.from_pretrained(runs / "fastv" / "config")
    backbone = load_backbone(make("x").backbone)
    samples = tasks.get("nano-scenes").samples("report", 16)
    for row in found.report:
        if row.kind != "tuned":
            continue
        right = []
        with attach(backbone.model, backbone.processor, config):
            for sample in samples:
                text = backbone.chat_prompt(sample.prompt)
                inputs = backbone.processor(
                    images=sample.load_image(), text=text, return_tensors="pt"
                )
                output = backbone.model.generate(
                    **inputs, budget=row.tokens, max_new_tokens=3, do_sample=False
                )
                new = output[0, inputs["input_ids"].shape[1] :]
                answer = backbone.tokenizer.decode(new, skip_special_tokens=True).strip()
                right.append(answer == sample.answers[0])
        assert sum(right) / len(right) == pytest.approx(row.score.mean)


def test_the_study_is_kept_as_it_was(runs: Path) -> None:
    for name in ("fastv", "behind"):
        kept = load_study(runs / name / "study.toml")
        assert kept.study.name == name
        assert kept.search.positions == (None if name == "fastv" else ("keep",))
    assert json.loads((runs / "behind" / "results.json").read_text())["study"]["search"]["later"]
