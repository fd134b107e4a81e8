"""``resprune-tune compare STUDY``: the study's methods side by side.

Options are tuned on the tune split, with the same number of trials for each method; everything is
then scored on the report split, which is opened once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from resprune import methods
from resprune.budget import Budget
from resprune.setting import Setting, unpruned
from tuner.compare.entries import (
    BASES,
    FAILURES,
    KINDS,
    Entry,
    entries_of,
    failed,
    published,
    reason_of,
)
from tuner.efficiency.runs import SHORT, bench, sample_prompts
from tuner.openings import Openings
from tuner.progress import Progress
from tuner.results.compared import Compared, ComparedRow, Control
from tuner.results.efficiency import Efficiency
from tuner.results.schema import Comparison
from tuner.results.statistics import Floats, Intervals, relative
from tuner.results.verdicts import Pair, judge
from tuner.run import check_same, keep_study
from tuner.scoring.split import Split
from tuner.search.storage import only_one
from tuner.search.trials import Search
from tuner.stages.certify import choices_digest
from tuner.stages.facts import environment, model_info, split_info
from tuner.stages.opened import OpenedStudy
from tuner.study import StudyConfig

CONTROLS = ("downsample", "pool")
"""The control is the first that the model allows."""


def compare_study(study: StudyConfig, runs: Path, progress: Progress | None = None) -> Compared:
    """Compare the methods of a study, or go on with it, and write its files.

    Args:
        study: The study.
        runs: Folder of run folders.
        progress: Told how it gets on.

    Returns:
        What was found, as in ``compare.json``.

    Raises:
        ResPruneError: Bad input, no method that the model allows, a damaged file, or an
            unwritable folder.
    """
    from tuner.output.compared import write_compared

    run_dir = runs / study.study.name
    with only_one(run_dir):
        check_same(study, run_dir)
        with OpenedStudy(study, run_dir, progress, leave_out=True) as opened:
            keep_study(study, run_dir)
            found = compare(opened)
        write_compared(found, run_dir)
    return found


def compare(opened: OpenedStudy) -> Compared:
    """Go through the stages of an opened study."""
    budgets = opened.budgets()
    with opened.stage("trials"):
        search = run_trials(opened, budgets)
        tried = defaultdict(list)
        for trial in search.trials():
            tried[trial.setting.method, trial.setting.budget].append(trial.setting)
    with opened.stage("settings"):
        entries = [
            entry
            for method in opened.spaces
            if method not in search.failed
            for budget in budgets
            for entry in entries_of(opened, method, budget, tried[method, budget])
        ]
        reasons = {method: reason_of(error) for method, error in search.failed.items()}
        for method, reason in {**reasons, **opened.unfit}.items():
            entries += failed(method, budgets, reason)
    with opened.stage("report"):
        settings = list(dict.fromkeys(e.setting for e in entries if e.setting is not None))
        openings = Openings(opened.run_dir).open(
            "report", opened.study.task.report, choices_digest(opened, settings, None)
        )
        split, intervals = opened.split("report"), opened.intervals("report")
        whole = split.score(unpruned())
        scores, errors = _scored(split, settings)
        controls = {budget: _control(opened, budget) for budget in budgets}
        rows = [
            row
            for budget in budgets
            for basis in BASES
            for which in KINDS
            for row in _table(
                opened,
                [e for e in entries if (e.budget, e.basis, e.which) == (budget, basis, which)],
                scores,
                errors,
                controls[budget][1],
                whole,
            )
        ]
    with opened.stage("efficiency"):
        efficiency = _measured(opened, list(scores))
    return Compared(
        study=opened.study.model_dump(mode="json"),
        model=model_info(opened),
        environment=environment(opened),
        splits={
            "tune": split_info(opened, "tune"),
            "report": split_info(opened, "report"),
        },
        report_openings=openings,
        groups=sorted(set(split.groups)),
        unpruned=intervals.of(whole),
        unpruned_by_group=intervals.by_group(whole),
        controls=[control for control, _ in controls.values()],
        rows=rows,
        efficiency=efficiency,
        seconds={name: round(value, 2) for name, value in opened.seconds.items()},
        prefills=opened.prefills,
    )


def run_trials(opened: OpenedStudy, budgets: Sequence[Budget]) -> Search:
    """Run the trials that are missing, each method's published setting first."""
    study, tune = opened.study, opened.split("tune")
    search = Search(
        study.study.name,
        list(opened.spaces.values()),
        study.study.objective,
        opened.seed,
        opened.run_dir,
        first={name: [published(opened, name, b) for b in budgets] for name in opened.spaces},
    )
    total = study.study.trials

    def evaluate(setting: Setting) -> tuple[float, int, float]:
        score = float(tune.score(setting).mean())
        return score, opened.tokens(setting), opened.cost(setting)

    search.run(
        total,
        evaluate,
        None,
        lambda trial, done: opened.progress.trial(trial, done, total * len(opened.spaces)),
        forgive=FAILURES,
    )
    return search


def _scored(
    split: Split, settings: Sequence[Setting]
) -> tuple[dict[Setting, Floats], dict[Setting, str]]:
    scores, errors = {}, {}
    for setting in settings:
        try:
            scores[setting] = split.score(setting)
        except FAILURES as error:
            errors[setting] = reason_of(error)
    return scores, errors


def _control(opened: OpenedStudy, budget: Budget) -> tuple[Control, list[int]]:
    """Say which report samples the control gets wrong at a budget."""
    split = opened.split("report")
    fixed = opened.backbone.visual_tokens is not None  # whatever the image's size
    name = CONTROLS[1] if fixed else CONTROLS[0]
    scores = split.score(Setting.of(name, budget))
    wrong = np.flatnonzero(scores < 0.5).tolist()
    score = opened.intervals("report").of(scores)
    return Control(budget=budget, method=name, score=score, samples=len(wrong)), wrong


def _table(
    opened: OpenedStudy,
    entries: Sequence[Entry],
    scores: Mapping[Setting, Floats],
    errors: Mapping[Setting, str],
    wrong: Sequence[int],
    whole: Floats,
) -> list[ComparedRow]:
    """Judge the methods of one table against the one that leads on the tune split."""
    split, every = opened.split("report"), opened.intervals("report")
    few = Intervals([split.images[i] for i in wrong], ends=opened.bench.metric.ends)
    own = {e.method: scores[e.setting] for e in entries if e.setting and e.setting in scores}
    promise = {e.method: e.tune_score or 0.0 for e in entries if e.method in own}
    best = max(promise, key=lambda method: promise[method], default="")
    against = _against(best, own, every)
    on_wrong = {method: values[list(wrong)] for method, values in own.items()}
    against_wrong = _against(best, on_wrong, few) if len(wrong) else {}
    rows = []
    for entry in entries:
        setting, method = entry.setting, entry.method
        failed = entry.error if setting is None else errors.get(setting)
        row = ComparedRow(
            method=method,
            budget=entry.budget,
            basis=entry.basis,
            which=entry.which,
            setting=setting,
            error=failed,
        )
        if setting is not None and failed is None:
            update = {
                "tokens": opened.tokens(setting),
                "cost": opened.cost(setting),
                "notes": opened.notes(setting),
                "tune_score": entry.tune_score,
                "score": every.of(own[method]),
                "relative": relative(every.of(own[method], whole), float(whole.mean()))
                if opened.bench.metric.bounded
                else None,
                "best": method == best,
                "versus_best": against.get(method),
                "wrong": few.of(on_wrong[method]) if len(wrong) else None,
                "wrong_versus_best": against_wrong.get(method),
                "by_group": every.by_group(own[method]),
            }
            row = row.model_copy(update=update)
        rows.append(row)
    return rows


def _against(
    best: str, scores: Mapping[str, Floats], intervals: Intervals
) -> dict[str, Comparison]:
    """Judge all methods of a table against its best together."""
    others = {
        method: Pair(values, scores[best], best)
        for method, values in scores.items()
        if method != best
    }
    return judge(others, intervals) if others else {}


def _measured(opened: OpenedStudy, settings: Sequence[Setting]) -> Efficiency | None:
    """Measure what an attached model can serve."""
    served = [s for s in settings if methods.get(s.method).stage in ("tokens", "layers")]
    if not served:
        return None
    samples = opened.samples["tune"][: SHORT.prompts]
    return bench(
        opened.backbone,
        sample_prompts(opened.backbone, samples),
        served,
        replace(SHORT, seed=opened.seed),
        model=opened.study.backbone.model,
        source="the tune split",
        progress=opened.progress.step,
    )
