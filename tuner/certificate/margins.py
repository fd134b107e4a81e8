"""Margins: how far an image's loss exceeds the claim's, so that the claim is a mean below 0.

With unpruned scores u, pruned scores s and m questions, an image's margin is sum(u - s) - loss m
on the absolute scale and sum((1 - loss) u - s) on the relative one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resprune.certificate import Claim
from resprune.errors import StudyError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """What a margin can be at most, known before any image is seen.

    Attributes:
        above: Largest margin (B).
        below: Largest negative of a margin.
    """

    above: float
    below: float

    @classmethod
    def of(cls, claim: Claim, questions_per_image: int, clip: float | None = None) -> Bounds:
        """Bound the margins of a claim.

        Args:
            claim: What is promised.
            questions_per_image: Questions of one image at most (M).
            clip: Where an unbounded metric is cut off from below, so that scores lie in [clip, 0];
                None where they lie in [0, 1].

        Raises:
            StudyError: A clip that leaves nothing to lose, or a relative loss of clipped scores.
        """
        if clip is None:
            width = 1.0
        elif claim.scale == "relative":
            raise StudyError(
                f"study.objective.scale: a relative loss of scores between {clip:g} and 0 means "
                'nothing; use scale = "absolute"'
            )
        elif clip >= -claim.loss:
            raise StudyError(
                f"study.objective.clip: scores cut off at {clip:g} cannot fall by the loss "
                f"{claim.loss:g}; give a clip below {-claim.loss:g}"
            )
        else:
            width = -clip
        if claim.scale == "relative":
            return cls(questions_per_image * (1 - claim.loss), questions_per_image * 1.0)
        return cls(
            questions_per_image * (width - claim.loss), questions_per_image * (width + claim.loss)
        )


def bounded(scores: Floats, clip: float | None) -> Floats:
    """Return scores cut off at ``clip``.

    Args:
        scores: (N,) scores.
        clip: See ``Bounds.of``.

    Raises:
        StudyError: Scores outside [0, 1] without a clip, or over 0 with one.
    """
    cut = scores if clip is None else np.maximum(scores, clip)
    low, high = (0.0, 1.0) if clip is None else (clip, 0.0)
    wrong = cut[~((cut >= low) & (cut <= high))]
    if len(wrong):
        fix = (
            "an unbounded metric needs study.objective.clip, below which scores are cut off"
            if clip is None
            else "a metric with a clip has scores of at most 0; leave study.objective.clip out"
        )
        raise StudyError(
            f"study.objective: score {wrong[0]:g} is outside [{low:g}, {high:g}]; {fix}"
        )
    return cut


def drawn_order(images: Sequence[str], seed: int) -> tuple[str, ...]:
    """Return the images, each once, in an order drawn by a seed alone.

    Args:
        images: (N,) image of each sample.
        seed: Draws the order, whatever the order of the samples.
    """
    names = sorted(set(images))
    return tuple(names[i] for i in np.random.default_rng(seed).permutation(len(names)))


def margins(
    unpruned: npt.ArrayLike,
    pruned: npt.ArrayLike,
    images: Sequence[str],
    claim: Claim,
    order: Sequence[str],
) -> Floats:
    """Return the margin of each image.

    Args:
        unpruned: (N,) scores of the unpruned model.
        pruned: (N,) scores of the policy on the same samples.
        images: (N,) image of each sample.
        claim: What is promised.
        order: (C,) the images, each once.

    Returns:
        (C,) margins in that order.

    Raises:
        StudyError: Lengths differ, or the order does not hold each image once.
    """
    each = question_margins(unpruned, pruned, claim)
    place = {image: i for i, image in enumerate(order)}
    if len(images) != len(each) or len(place) != len(order) or set(images) != set(place):
        raise StudyError(
            f"margins: {len(each)} samples of {len(images)} images named, {len(set(images))} "
            f"different, in an order of {len(order)}; give each sample its image, and each image "
            "one place in the order"
        )
    places = [place[image] for image in images]
    return np.bincount(places, weights=each, minlength=len(order)).astype(np.float64)


def question_margins(unpruned: npt.ArrayLike, pruned: npt.ArrayLike, claim: Claim) -> Floats:
    """Return the margin of each question.

    Args:
        unpruned: (N,) scores of the unpruned model.
        pruned: (N,) scores of the policy on the same samples.
        claim: What is promised.

    Raises:
        StudyError: Shapes differ, or nothing to compare.
    """
    u, s = np.asarray(unpruned, dtype=np.float64), np.asarray(pruned, dtype=np.float64)
    if u.ndim != 1 or u.shape != s.shape or not len(u):
        raise StudyError(
            f"margins: scores of shape {u.shape} and {s.shape}; give two lists of one length"
        )
    each: Floats = u - s - claim.loss if claim.scale == "absolute" else (1 - claim.loss) * u - s
    return each


def mean_loss(unpruned: Floats, pruned: Floats, claim: Claim) -> float:
    """Return the mean loss in units of the claim.

    Args:
        unpruned: (N,) scores of the unpruned model.
        pruned: (N,) scores of the policy.
        claim: What is promised.

    Raises:
        StudyError: A share of an unpruned score of 0.
    """
    lost = float(np.mean(unpruned - pruned))
    if claim.scale == "absolute":
        return lost
    if not np.mean(unpruned) > 0:
        raise StudyError(
            "study.objective.scale: the unpruned model scores 0, of which no share can be lost; "
            'use scale = "absolute"'
        )
    return lost / float(np.mean(unpruned))
