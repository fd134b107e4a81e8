"""Which test fits a claim."""

from __future__ import annotations

from typing import Literal

from resprune.certificate import Claim, TestName
from resprune.errors import StudyError


def resolve_test(
    asked: Literal["auto", "exact", "betting", "t"],
    claim: Claim,
    binary: bool,
    questions_per_image: int,
) -> TestName:
    """Return the test to use.

    Args:
        asked: What the study asks for; ``auto`` is ``exact`` where that fits, else ``betting``.
        claim: What is promised.
        binary: Whether every score is 0 or 1.
        questions_per_image: Questions of one image at most.

    Raises:
        StudyError: ``exact`` where it does not fit.
    """
    if asked in ("betting", "t"):
        return asked
    if not binary:
        problem = "needs scores of 0 or 1, and this metric's lie between"
    elif questions_per_image > 1:
        problem = f"needs one question an image, not {questions_per_image}"
    elif claim.scale == "relative":
        problem = 'needs scale = "absolute"'
    else:
        return "exact"
    if asked == "auto":
        return "betting"
    raise StudyError(f'study.objective.test: "exact" {problem}; "betting" fits (or "auto")')
