"""``resprune-tune surrogate STUDY``: many plans of each sample, measured and answered.

The paper takes a small ``||V - P_S V||_F^2`` for a kept answer. Whether that holds is asked of
plans at one budget, where every plan keeps as many tokens, and of all budgets together, where the
count alone says much. The tune split is used; certify and report split stay closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resprune import methods
from resprune.budget import Energy
from resprune.errors import StudyError
from resprune.plan import Plan, relevance_of
from tuner.progress import Progress
from tuner.results.surrogate import OUTCOMES, Correlation, Outcome, Surrogate
from tuner.scoring.split import Split
from tuner.search.storage import only_one
from tuner.stages.facts import environment, model_info, split_info
from tuner.stages.opened import OpenedStudy
from tuner.study import StudyConfig
from tuner.surrogate.correlate import Bools, Floats, Resamples, at_once, distinct, within
from tuner.surrogate.measures import BASELINES, FORMS, NAMES, measures
from tuner.surrogate.plans import spread

DRAWS = 500
"""Bootstrap draws of images."""
LEAST_IMAGES = 10
ALL = "all budgets"


def run_surrogate(
    study: StudyConfig, runs: Path, plans: int = 24, progress: Progress | None = None
) -> Surrogate:
    """Measure and answer plans of the tune split, or go on with it, and write the files.

    Args:
        study: The study.
        runs: Folder of run folders.
        plans: Plans of each sample and budget, 4 or more.
        progress: Told how it gets on.

    Returns:
        What was found, as in ``surrogate.json``.

    Raises:
        ResPruneError: Bad input, too few images or plans, or an unwritable folder.
    """
    from tuner.output.surrogate import write_surrogate

    if plans < 4:
        raise StudyError(f"--plans is {plans}; give 4 or more, to rank them")
    run_dir = runs / study.study.name
    with only_one(run_dir):
        with OpenedStudy(study, run_dir, progress, leave_out=True) as opened:
            found = correlations(opened, plans)
        write_surrogate(found, run_dir)
    return found


def correlations(opened: OpenedStudy, plans: int) -> Surrogate:
    """Go through the stages of an opened study."""
    split, budgets = opened.split("tune"), opened.budgets()
    images = len(set(split.images))
    if images < LEAST_IMAGES:
        raise StudyError(
            f"task.tune: {images} images say nothing about others; give {LEAST_IMAGES} or more"
        )
    counts = [budget for budget in budgets if not isinstance(budget, Energy)]
    if len(counts) < len(budgets):
        raise StudyError("search.budget: an energy budget keeps what it measures; give counts")
    if not all(sample.answers for sample in split.samples):
        raise StudyError("task.tune: a sample has no gold answer, whose likelihood is asked for")
    with opened.stage("plans"):
        settings = [spread(opened, budget, plans, opened.seed) for budget in counts]
        planned = [split.plans(each) for each in settings]
        tokens = [opened.tokens(each[0]) for each in settings]
        flat = [row for each in planned for row in each]
        there = np.concatenate(
            [distinct([[plan.key() for plan in row] for row in each]) for each in planned]
        )
        measured = _measured(split, flat)
    with opened.stage("outcomes"):
        outcomes: dict[Outcome, Floats] = {
            "log-likelihood": split.log_likelihoods(flat),
            "correctness": split.correctness(flat),
        }
    with opened.stage("correlations"):
        resamples = Resamples(split.images, DRAWS, opened.seed)
        ends = np.cumsum([0, *map(len, settings)])
        groups = {ALL: np.ones(len(flat), dtype=bool)} if len(budgets) > 1 else {}
        of_method = np.array([s.method == "resprune" for each in settings for s in each])
        for place, count in enumerate(tokens):
            at = np.zeros(len(flat), dtype=bool)
            at[ends[place] : ends[place + 1]] = True
            groups[str(count)] = at
            groups[f"resprune, {count}"] = at & of_method
        rows = [
            row
            for name, at in groups.items()
            for row in _group(
                name, {m: v[at] for m, v in measured.items()}, outcomes, at, there[at], resamples
            )
        ]
    correct = outcomes["correctness"]
    return Surrogate(
        study=opened.study.model_dump(mode="json"),
        model=model_info(opened),
        environment=environment(opened),
        split=split_info(opened, "tune"),
        budgets=tokens,
        plans={
            count: float(there[ends[i] : ends[i + 1]].sum(axis=0).mean())
            for i, count in enumerate(tokens)
        },
        score={
            count: float(correct[ends[i] : ends[i + 1]].mean()) for i, count in enumerate(tokens)
        },
        rows=rows,
        prefills=opened.prefills,
    )


def _measured(split: Split, plans: Sequence[Sequence[Plan]]) -> dict[str, Floats]:
    """Measure every plan, by measure (P, N); residuals are turned, so that more is better."""
    found: dict[str, Floats] = {}
    options = methods.get("resprune").options()
    for i in range(len(split)):
        visual = split.visual(i)
        relevance = relevance_of(visual, split.prompt(i), options.relevance)  # type: ignore[attr-defined]
        attention = next(iter(visual.signals.values()), None)
        for p, row in enumerate(plans):
            order = row[i].kept if row[i].order is None else row[i].order
            assert order is not None
            values = measures(visual.tokens, order, relevance, 1.0, attention)
            for name, value in values.items():
                table = found.setdefault(name, np.empty((len(plans), len(split))))
                table[p, i] = -value if name in FORMS else value
    return found


def _group(
    name: str,
    measured: dict[str, Floats],
    outcomes: dict[Outcome, Floats],
    at: Bools,
    there: Bools,
    resamples: Resamples,
) -> list[Correlation]:
    """Correlate every measure that differs among some plans with every outcome."""
    kept = [m for m in NAMES if m in measured and (m != "count" or name == ALL)]
    own = [outcomes[outcome][at] for outcome in OUTCOMES]
    overall = at_once(np.stack([measured[m] for m in kept]), np.stack(own), there, resamples)
    rows = []
    for o, outcome in enumerate(OUTCOMES):
        rhos = {m: within(measured[m], own[o], there) for m in kept}
        means = {m: float(np.nanmean(r)) for m, r in rhos.items() if np.isfinite(r).any()}
        simple = {m: mean for m, mean in means.items() if m in BASELINES}
        best = max(simple, key=lambda m: simple[m], default=None)
        for m, measure in enumerate(kept):
            mean, samples, _ = resamples.mean(rhos[measure])
            versus = None
            if measure in FORMS and best is not None:
                versus, _, _ = resamples.mean(rhos[measure] - rhos[best])
            rows.append(
                Correlation(
                    measure=measure,
                    outcome=outcome,
                    plans=name,
                    within=mean,
                    samples=samples,
                    overall=overall[m][o],
                    difference=versus,
                    baseline=best if versus is not None else None,
                )
            )
    return rows
