"""What a study claims, how it is tested, and whether its samples could prove it at all."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resprune.certificate import CertifySplit, Claim, TestName
from tuner import certificate
from tuner.scoring import metrics
from tuner.scoring.metrics import Metric
from tuner.study import StudyConfig
from tuner.tasks import Sample, Task


@dataclass(frozen=True)
class ClaimTest:
    """A claim, and how it is tested.

    Attributes:
        claim: What is claimed.
        test: The test.
        clip: Where scores are cut off from below, None where the metric lies from 0 to 1.
        split: The samples.
    """

    claim: Claim
    test: TestName
    clip: float | None
    split: CertifySplit


def claim_test(study: StudyConfig, task: Task, samples: Sequence[Sample]) -> ClaimTest | None:
    """Return what a study claims and how it is tested; nothing is scored.

    Args:
        study: The study.
        task: Its task.
        samples: Samples of the certify split.

    Returns:
        None where nothing is claimed, or there is no certify split.

    Raises:
        StudyError: A test that does not fit, or a claim that no outcome on these samples could
            prove.
    """
    objective, spec = study.study.objective, study.task.certify
    metric = metrics.get(study.task.metric)
    claim = objective.claim(metric)
    if claim is None or spec is None:
        return None
    split = split_info(spec.split, spec.offset, samples)
    return fitting_test(objective.test, claim, split, metric, task, objective.clip)


def fitting_test(
    asked: Literal["auto"] | TestName,
    claim: Claim,
    split: CertifySplit,
    metric: Metric,
    task: Task,
    clip: float | None,
) -> ClaimTest:
    """Choose a claim's test, and check that some outcome on the split could prove it.

    Args:
        asked: The test asked for.
        claim: What is claimed.
        split: The samples.
        metric: Scores outcomes.
        task: Scores answers.
        clip: Where an unbounded metric is cut off.

    Raises:
        StudyError: A test that does not fit, or a claim that no outcome could prove.
    """
    binary = metric.bounded and (metric.compares or task.binary)
    test = certificate.resolve_test(asked, claim, binary, split.questions_per_image)
    certificate.require_provable(
        split.images,
        claim,
        test,
        improves=not metric.compares,
        questions_per_image=split.questions_per_image,
        clip=clip,
    )
    least = certificate.least_images(claim.loss, claim.confidence)
    if test == "exact" and split.images < least:
        warnings.warn(
            f"task.certify: with {split.images} images a policy that turns no wrong answer right "
            f"cannot be certified to lose less than {claim.loss:g}; give {least} or more",
            stacklevel=3,
        )
    return ClaimTest(claim, test, clip, split)


def split_info(name: str, offset: int, samples: Sequence[Sample]) -> CertifySplit:
    """Describe the samples of a certify split."""
    asked = Counter(sample.image_id for sample in samples)
    return CertifySplit(
        name=name,
        offset=offset,
        samples=len(samples),
        images=len(asked),
        questions_per_image=max(asked.values()),
    )
