"""Filling a table of the paper, on released weights or on the embedded models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resprune.budget import Budget
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.plan import needs_of, signals_of
from resprune.setting import Setting, unpruned
from tuner.paper.preset import Benchmark, Model, Preset, Row, load_preset
from tuner.progress import Progress
from tuner.results.paper import Cell, Column, PaperTable
from tuner.results.statistics import Floats, relative
from tuner.results.verdicts import Pair, judge
from tuner.search.storage import only_one
from tuner.stages.fits import own_positions
from tuner.stages.opened import OpenedStudy
from tuner.study import StudyConfig, study_from_dict

NANO_TASK = {"nano-llava-next": "nano-scenes-wide"}
"""Embedded models on other scenes than ``nano-scenes``."""
_TUNE = 16  # never scored: the table has nothing to tune


def fill_table(
    name: str,
    runs: Path,
    *,
    nano: bool,
    samples: int | None = None,
    progress: Progress | None = None,
) -> PaperTable:
    """Score every line of a table at every budget, or go on with it.

    Args:
        name: Name of a preset.
        runs: Folder of run folders, one a model and benchmark.
        nano: On the embedded models, whose one benchmark are their scenes.
        samples: Questions of each benchmark at most; None takes as many as the preset says.
        progress: Told how it gets on.

    Returns:
        The table.

    Raises:
        ResPruneError: An unknown preset, or weights or data that cannot be loaded.
    """
    preset = load_preset(name)
    columns = []
    for model in preset.models:
        for benchmark in _benchmarks(preset, model, nano):
            study = _study(name, model, benchmark, nano, samples)
            run_dir = runs / study.study.name
            with only_one(run_dir), OpenedStudy(study, run_dir, progress) as opened:
                columns.append(_column(opened, preset, benchmark.name))
    return PaperTable(
        name=name,
        table=preset.table,
        title=preset.title,
        on="nano" if nano else "weights",
        columns=columns,
    )


def _benchmarks(preset: Preset, model: Model, nano: bool) -> tuple[Benchmark, ...]:
    if not nano:
        return preset.benchmarks
    # a range of the report split that no shipped study reads
    task = {
        "name": NANO_TASK.get(model.nano, "nano-scenes"),
        "tune": {"split": "tune", "samples": _TUNE},
        "report": {"split": "report", "samples": 1000, "offset": 30000},
    }
    return (Benchmark(name="scenes", task=task),)


def _study(
    name: str, model: Model, benchmark: Benchmark, nano: bool, samples: int | None
) -> StudyConfig:
    task: dict[str, Any] = {**benchmark.task, "report": {**benchmark.task["report"]}}
    if samples is not None:
        task["report"]["samples"] = min(samples, task["report"].get("samples", samples))
    budgets = model.nano_budgets if nano else model.budgets
    own = model.nano if nano else model.id.split("/")[-1]
    backbone = {"model": model.nano if nano else model.id, "family": model.family}
    return study_from_dict(
        {
            "study": {
                "name": f"paper-{name}-{own}-{benchmark.name}".lower(),
                "trials": len(budgets),
                "objective": {"kind": "pareto"},
            },
            "backbone": {**backbone, **({"device": "cpu"} if nano else {"dtype": "bfloat16"})},
            "task": task,
            "search": {"method": "resprune", "budget": list(budgets), "seed_strategy": ["l2_norm"]},
        }
    )


def _column(opened: OpenedStudy, preset: Preset, benchmark: str) -> Column:
    split, intervals = opened.split("report"), opened.intervals("report")
    whole = split.score(unpruned())
    pairs: dict[tuple[int, int], Pair] = {}
    found: dict[tuple[int, int], tuple[Setting, Floats]] = {}
    errors: dict[tuple[int, int], str] = {}
    with opened.stage("report"):
        for b, budget in enumerate(opened.study.budgets()):
            for r, row in enumerate(preset.rows):
                try:
                    setting = setting_of(opened, row, budget)
                    found[b, r] = setting, split.score(setting)
                except (ResPruneError, RuntimeError) as error:
                    errors[b, r] = next(iter(str(error).splitlines()), type(error).__name__)
                    continue
                first = found.get((b, 0))
                if r and first is not None:
                    pairs[b, r] = Pair(found[b, r][1], first[1], preset.rows[0].label)
    judged = judge(pairs, intervals) if pairs else {}
    cells = []
    for b, budget in enumerate(opened.study.budgets()):
        for r, row in enumerate(preset.rows):
            if (b, r) not in found:
                cells.append(Cell(label=row.label, budget=str(budget), error=errors[b, r]))
                continue
            setting, scores = found[b, r]
            cells.append(
                Cell(
                    label=row.label,
                    setting=setting,
                    budget=str(budget),
                    tokens=opened.tokens(setting),
                    cost=opened.cost(setting),
                    notes=opened.notes(setting),
                    score=intervals.of(scores),
                    relative=relative(intervals.of(scores, whole), float(whole.mean())),
                    versus_first=judged.get((b, r)),
                )
            )
    return Column(
        model=opened.study.backbone.model,
        benchmark=benchmark,
        samples=len(split),
        images=len(set(split.images)),
        unpruned=intervals.of(whole),
        cells=cells,
    )


def setting_of(opened: OpenedStudy, row: Row, budget: Budget) -> Setting:
    """Return the setting of a line: ResPrune's own for the family, others as published.

    Raises:
        ResPruneError: It does not fit the model.
    """
    if row.method == "resprune":
        return opened.paper(budget).with_options(**row.options)
    positions = own_positions(row.method, opened.backbone)
    setting = Setting.of(row.method, budget, positions=positions, **row.options)
    try:
        offered = opened.backbone.seed_signals
        opened.backbone.require_signals(signals_of(needs_of(setting), offered))
    except UnsupportedModelError as error:
        raise ResPruneError(str(error)) from None
    return setting
