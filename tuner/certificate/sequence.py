"""Which policies are certified: one after another in a fixed order, until the first fails.

Fixed-sequence testing: as the order does not depend on the certify split, a false certificate needs
the first false claim to pass, so every test has the whole level 1 - confidence (Learn then Test,
arXiv 2110.01052; the order by promise: Pareto Testing, arXiv 2210.07913).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resprune.budget import Budget
from resprune.certificate import Certificate, Claim, Tested, TestName
from resprune.errors import ResPruneError, StudyError
from tuner.certificate.betting import betting_p_value
from tuner.certificate.choose import resolve_test
from tuner.certificate.exact import exact_p_value
from tuner.certificate.margins import Bounds, bounded, margins, mean_loss, question_margins
from tuner.certificate.normal import t_p_value
from tuner.results.statistics import standard_error

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Entry:
    """A policy of the table, to be tested.

    Attributes:
        budget: Its budget.
        tokens: Mean count of visual tokens it keeps on the tune split.
    """

    budget: Budget
    tokens: int


@dataclass(frozen=True)
class Split:
    """The samples that a claim is tested on.

    Attributes:
        unpruned: (N,) scores of the unpruned model.
        images: (N,) image of each sample.
        order: (C,) the images, each once, in an order drawn before their scores are known.
        questions_per_image: Questions of one image at most, fixed beforehand.
    """

    unpruned: _Floats
    images: Sequence[str]
    order: Sequence[str]
    questions_per_image: int = 1


def order_by_promise(
    entries: Sequence[Entry],
    scores: Sequence[_Floats],
    unpruned: _Floats,
    images: Sequence[str],
    claim: Claim,
    clip: float | None = None,
) -> tuple[int, ...]:
    """Return the order in which policies are tested.

    Descending (loss - tune loss) / standard error, by image. To the squares of the error come those
    of one answer turned wrong and one turned right, so that it is never 0. Ties go to more tokens.

    Args:
        entries: The policies.
        scores: Of each policy, (N,) scores on the tune split.
        unpruned: (N,) scores of the unpruned model there.
        images: (N,) image of each sample.
        claim: What is promised.
        clip: Where an unbounded metric is cut off from below.

    Returns:
        Places in ``entries``.

    Raises:
        StudyError: Scores out of range.
    """
    turned = 2 * (1.0 if clip is None else clip) ** 2 / len(unpruned) ** 2
    u = bounded(unpruned, clip)
    promise = []
    for entry, row in zip(entries, scores, strict=True):
        each = question_margins(u, bounded(row, clip), claim)
        error = np.sqrt(standard_error(each, None, images) ** 2 + turned)
        promise.append((-float(each.mean() / error), entry.tokens))
    return tuple(sorted(range(len(entries)), key=promise.__getitem__, reverse=True))


def certify(
    entries: Sequence[Entry],
    scores: Callable[[Entry], _Floats],
    split: Split,
    claim: Claim,
    test: TestName,
    clip: float | None = None,
) -> tuple[Tested, ...]:
    """Test policies in order at the whole level each, until the first fails.

    Args:
        entries: The policies in the order of testing.
        scores: Scores a policy on the certify split, (N,); not asked after the first failure.
        split: The certify split.
        claim: What is promised.
        test: From ``resolve_test``.
        clip: Where an unbounded metric is cut off from below.

    Returns:
        Every policy in that order; those after the first failure without numbers.

    Raises:
        StudyError: Scores out of range, more questions an image than said, or a test that does not
            fit the scores.
    """
    done: list[Tested] = []
    for entry in entries:
        if done and not done[-1].certified:
            done.append(Tested(budget=entry.budget, tokens=entry.tokens))
        else:
            done.append(_tested(entry, scores(entry), split, claim, test, clip))
    return tuple(done)


def check(certificate: Certificate) -> None:
    """Compute a certificate's p-values, verdicts and losses again from its own numbers.

    Losses on the relative scale are not: margins do not tell the unpruned score.

    Args:
        certificate: With its digest in order.

    Raises:
        StudyError: A number that does not follow from the others; the policy is named.
    """
    split, claim = certificate.split, certificate.claim
    going_on = True
    for tested in certificate.order:
        place = f"certificate: budget {tested.budget}"
        if not going_on:
            if tested.p_value is not None or tested.certified:
                raise StudyError(f"{place}: was tested, though a policy before it failed")
            continue
        p_value = _p_value(
            tested,
            split.images,
            split.questions_per_image,
            certificate.test,
            claim,
            certificate.clip,
        )
        if tested.p_value is None or not np.isclose(p_value, tested.p_value, rtol=1e-6, atol=1e-9):
            raise StudyError(
                f"{place}: p-value {tested.p_value}, but its numbers give {p_value:.6g}"
            )
        if tested.certified != (tested.p_value <= 1 - claim.confidence):
            raise StudyError(
                f"{place}: certified is {tested.certified} at p-value {tested.p_value:.6g} and "
                f"confidence {claim.confidence:g}"
            )
        loss = _loss(tested, split.samples, certificate.test, claim)
        if loss is not None and (tested.loss is None or not np.isclose(loss, tested.loss)):
            raise StudyError(f"{place}: loss {tested.loss}, but its numbers give {loss:.6g}")
        going_on = tested.certified


def _tested(
    entry: Entry, pruned: _Floats, split: Split, claim: Claim, test: TestName, clip: float | None
) -> Tested:
    u, s = bounded(split.unpruned, clip), bounded(pruned, clip)
    each = margins(u, s, split.images, claim, split.order)
    image, questions = np.unique(np.asarray(split.images), return_inverse=True, return_counts=True)[
        1:
    ]
    if questions.max() > split.questions_per_image:
        raise StudyError(
            f"task.certify.questions_per_image: an image has {questions.max()} questions, more "
            f"than the {split.questions_per_image} said beforehand"
        )
    binary = bool(np.isin([u, s], [0.0, 1.0]).all())
    resolve_test(test, claim, binary, split.questions_per_image)
    change = np.bincount(image, weights=s - u)
    counted = test != "betting"
    tested = Tested(
        budget=entry.budget,
        tokens=entry.tokens,
        loss=mean_loss(u, s, claim),
        worse=int(np.sum(change < 0)) if counted else None,
        better=int(np.sum(change > 0)) if counted else None,
        margins=() if test == "exact" else tuple(each.tolist()),
    )
    p_value = _p_value(tested, len(split.order), split.questions_per_image, test, claim, clip)
    return tested.model_copy(
        update={"p_value": p_value, "certified": p_value <= 1 - claim.confidence}
    )


def _p_value(
    tested: Tested,
    images: int,
    questions_per_image: int,
    test: TestName,
    claim: Claim,
    clip: float | None,
) -> float:
    """Return the p-value of a policy from the numbers it carries; an error names the policy."""
    counts = tested.worse, tested.better
    try:
        if test == "exact" and None not in counts:
            return exact_p_value(tested.worse or 0, tested.better or 0, images, claim.loss)
        if test != "exact" and len(tested.margins) == images:
            if test == "t":
                return t_p_value(tested.margins, (tested.worse or 0) + (tested.better or 0))
            bound = Bounds.of(claim, questions_per_image, clip).above
            return betting_p_value(tested.margins, bound)
    except ResPruneError as error:
        raise StudyError(f"budget {tested.budget}: {error}") from None
    raise StudyError(
        f"budget {tested.budget}: counts {counts} and {len(tested.margins)} margins of {images} "
        f"images; {test} needs {'both counts' if test == 'exact' else 'one margin an image'}"
    )


def _loss(tested: Tested, samples: int, test: TestName, claim: Claim) -> float | None:
    """Return the mean loss; None on the relative scale."""
    if test == "exact":
        return ((tested.worse or 0) - (tested.better or 0)) / samples
    return claim.loss + sum(tested.margins) / samples if claim.scale == "absolute" else None
