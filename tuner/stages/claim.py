"""What a study claims, how it is tested, and whether its samples could prove it at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resprune.certificate import CertifySplit, Claim, TestName
from resprune.errors import StudyError
from tuner import certificate
from tuner.scoring import metrics
from tuner.study import StudyConfig
from tuner.tasks import Sample, Task

Floats = npt.NDArray[np.float64]


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

    @property
    def width(self) -> float:
        """Greatest difference of two scores."""
        return 1.0 if self.clip is None else -self.clip

    def clipped(self, scores: Floats) -> Floats:
        """Cut scores off from below."""
        return scores if self.clip is None else np.maximum(scores, self.clip)


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
    binary = metric.compares or (metric.bounded and task.binary)
    test = certificate.resolve_test(objective.test, claim, binary, split.questions_per_image)
    found = ClaimTest(claim, test, objective.clip, split)
    check_provable(found, improves=not metric.compares)
    return found


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


def check_provable(asked: ClaimTest, *, improves: bool) -> None:
    """Refuse a claim that no outcome could prove.

    Args:
        asked: The claim and its test.
        improves: Whether pruning can turn a wrong answer right; not so for fidelity.

    Raises:
        StudyError: It could not; the message says how many images would do.
    """
    claim, images = asked.claim, asked.split.images
    least = certificate.least_images(claim, asked.test, improves=improves)
    if images < least:
        raise StudyError(
            f"task.certify: {images} images cannot show a loss under {claim.loss:g} with "
            f"confidence {claim.confidence:g}, whatever the model answers; give {least} or more, "
            "or claim less (study.objective)"
        )
