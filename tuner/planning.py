"""Before a study: how many images its claim needs, and what the study costs on this machine.

`resprune-tune plan STUDY` scores a pilot of the tune split, or takes a stated guess, and never
looks at the certify or the report split.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from resprune.certificate import Claim, TestName
from resprune.errors import StudyError
from resprune.setting import unpruned
from resprune.validation import StrictModel
from tuner import certificate
from tuner.progress import Progress, Silent
from tuner.scoring.bench import Bench
from tuner.scoring.metrics import Metric
from tuner.scoring.split import Split
from tuner.stages.claim import ClaimTest
from tuner.stages.opened import OpenedStudy
from tuner.study import StudyConfig
from tuner.tasks import Sample

POWER = 0.8
_TIMED = 20  # samples scored for the time alone
_SURE = 1.96  # standard errors of a 95 % interval
_FAMILY = 2.9  # of a gain that stands out among all tries of the adaptive guard
_POWER_ERRORS = 0.84  # standard errors that a power of 80 % asks for on top


class PlannedBudget(StrictModel):
    """What the claim needs at one budget.

    Attributes:
        budget: The budget.
        worse: Share of questions whose answer turns wrong.
        better: Share whose answer turns right.
        images: Certify images for the claim at 80 % power at these shares; None where they lose
            no less than the claim.
        images_if_level: The same if tuning closed the loss: as many answers flip, half each way;
            None where none can turn right (``fidelity``).
    """

    budget: str
    worse: float
    better: float
    images: int | None
    images_if_level: int | None


class PlannedSplit(StrictModel):
    """What one split needs.

    Attributes:
        split: The part it plays.
        has: Questions that the study gives it.
        needs: Images it needs, with one question each.
        why: What they are needed for.
        passes: Forward passes of the language model, at most.
        seconds: What those take here.
    """

    split: str
    has: int
    needs: int | None
    why: str
    passes: int
    seconds: float


class StudyPlan(StrictModel):
    """The plan of a study.

    Attributes:
        study: Its name.
        metric: The metric whose mean is meant.
        claim: What it claims.
        test: How that is tested.
        source: Where the shares of flips come from.
        least_images: With fewer, no policy that turns no wrong answer right could be certified.
        budgets: By budget, from many tokens to few.
        splits: By split.
        passes_per_second: Of the pilot.
    """

    study: str
    metric: str
    claim: Claim
    test: TestName
    source: str
    least_images: int
    budgets: list[PlannedBudget]
    splits: list[PlannedSplit]
    passes_per_second: float


def plan_study(
    study: StudyConfig,
    worse: float | None = None,
    better: float | None = None,
    pilot: int = 100,
    progress: Progress | None = None,
) -> StudyPlan:
    """Plan a study.

    Args:
        study: The study.
        worse: Share of questions whose answer turns wrong; None scores a pilot.
        better: Share whose answer turns right.
        pilot: Tune samples that the pilot scores under the paper's default at every budget.
        progress: Told how it gets on.

    Returns:
        The plan.

    Raises:
        ResPruneError: Bad input, or a study that claims nothing.
    """
    if (worse is None) != (better is None):
        raise StudyError("--worse and --better are a guess together; give both, or neither")
    for name, share in (("worse", worse), ("better", better)):
        if share is not None and not 0 <= share < 1:
            raise StudyError(f"--{name} {share:g}: give a share from 0 to below 1")
    if worse is not None and better is not None and worse + better > 1:
        raise StudyError(f"--worse {worse:g} and --better {better:g} add up to more than all")
    progress = progress or Silent()
    with (
        tempfile.TemporaryDirectory() as folder,
        OpenedStudy(study, Path(folder), progress) as opened,
    ):
        asked = opened.claim_test
        if asked is None:
            raise StudyError(
                f"{study.study.name}: nothing is claimed; add task.certify, and an objective with "
                "a loss, such as { kind = 'certified', loss = 0.02 }"
            )
        budgets = opened.budgets()
        if worse is not None and asked.claim.scale == "relative":
            raise StudyError(
                "--worse and --better: a share of the unpruned score is claimed, which only a "
                "pilot tells; leave both out"
            )
        progress.stage("pilot")
        samples = opened.samples["tune"][: pilot if worse is None else _TIMED]
        split = Split("tune", samples, opened.bench)
        begin = time.perf_counter()
        whole = split.score(unpruned())
        kept = [split.score(opened.paper(budget)) for budget in budgets]
        speed = split.prefills / (time.perf_counter() - begin)
        if worse is not None and better is not None:
            shares = [(worse, better)] * len(budgets)
            source = "a guess"
        else:
            shares = [(float((k < whole).mean()), float((k > whole).mean())) for k in kept]
            source = f"a pilot of {len(samples)} tune samples under the paper's default"
        planned = [
            _budget(str(budget), *each, asked, float(whole.mean()), opened.bench.metric)
            for budget, each in zip(budgets, shares, strict=True)
        ]
        return StudyPlan(
            study=study.study.name,
            metric=study.task.metric,
            claim=asked.claim,
            test=asked.test,
            source=source,
            least_images=certificate.images_to_prove(
                asked.claim, asked.test, False, asked.split.questions_per_image, asked.clip
            ),
            budgets=planned,
            splits=_splits(opened, planned, asked.claim, speed),
            passes_per_second=speed,
        )


def _budget(
    budget: str, worse: float, better: float, asked: ClaimTest, whole: float, metric: Metric
) -> PlannedBudget:
    flips, claim, test = (worse + better) / 2, asked.claim, asked.test
    return PlannedBudget(
        budget=budget,
        worse=worse,
        better=better,
        images=certificate.images_needed(worse, better, claim, test, POWER, whole),
        images_if_level=None
        if metric.compares  # no answer can agree more than the unpruned model's own
        else certificate.images_needed(flips, flips, claim, test, POWER, whole),
    )


def _splits(
    opened: OpenedStudy, planned: Sequence[PlannedBudget], claim: Claim, speed: float
) -> list[PlannedSplit]:
    study, count = opened.study, len(planned)
    # the least pruned budget is what the claim will hold for, if for any
    first = planned[0]
    variance = max(first.worse + first.better - (first.worse - first.better) ** 2, 1e-4)
    spread = math.sqrt(variance) / claim.loss
    settings = settings_scored(study, count)
    rows = {
        "tune": (
            math.ceil((2 * spread) ** 2),
            "to choose with a standard error of half the claim's loss",
        ),
        "fit": (
            math.ceil(((_FAMILY + _POWER_ERRORS) * spread) ** 2),
            "to see a gain of the claim's loss from choosing by prompt",
        ),
        "certify": (
            first.images if first.images is not None else first.images_if_level,
            f"for the claim at 80 % power at {first.budget} tokens"
            + ("" if first.images is not None else ", if tuning closes the loss"),
        ),
        "report": (
            math.ceil((_SURE * spread) ** 2),
            "for an interval of the loss as wide as the claim's loss to either side",
        ),
    }
    found = []
    for name, samples in opened.samples.items():
        needs, why = rows[name]
        passes = len(samples) * settings[name]
        found.append(
            PlannedSplit(
                split=name,
                has=len(samples),
                needs=needs,
                why=why,
                passes=passes,
                seconds=round(passes / speed, 1),
            )
        )
    return found


def settings_scored(study: StudyConfig, budgets: int) -> dict[str, int]:
    """Return how many settings a study scores on each split, at most.

    Args:
        study: The study.
        budgets: How many budgets it has.
    """
    grid = len(study.alpha.grid)
    tries = study.study.trials * len(study.search.method)
    return {
        "tune": tries + (grid + 10) * budgets,
        "fit": grid * (len(study.alpha.budgets) or budgets),
        "certify": budgets + 1,
        "report": 12 * budgets + 1,
    }


def passes_a_second(samples: Sequence[Sample], bench: Bench) -> float:
    """Return how many samples a second go through the unpruned language model."""
    split = Split("tune", samples, bench)
    begin = time.perf_counter()
    split.answers([split.unpruned()])
    return len(split) / (time.perf_counter() - begin)
