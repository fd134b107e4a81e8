"""Is choosing by prompt adopted at a budget, with which try, and if not, why?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resprune.budget import Budget
from tuner.alpha.cross_validation import FOLDS, tries
from tuner.alpha.guard import CONFIDENCE, Evidence

MIN_IMAGES = 20
"""Images under which no gain counts as shown."""
MIN_FORMS = 2 * FOLDS
"""Wordings under which nothing can be shown by wording."""


@dataclass(frozen=True)
class CvRow:
    """One try of the cross-validation.

    Attributes:
        budget: Visual tokens kept.
        candidate: Regressor, a key of `tuner.alpha.candidates.CANDIDATES`.
        strength: Trust in its predictions.
        by_image: What cross-validation over whole images says.
        by_wording: The same over whole wordings; None where there are too few.
        chosen: Whether it became the budget's model.
    """

    budget: Budget
    candidate: str
    strength: float
    by_image: Evidence
    by_wording: Evidence | None
    chosen: bool = False


def adopt(
    budget: Budget,
    by_image: Sequence[Evidence],
    by_wording: Sequence[Evidence] | None,
    images: int,
    forms: int,
) -> tuple[list[CvRow], str]:
    """Choose a try at one budget, or none.

    Of the tries whose gain is shown by image and by wording the one that gains most by image is
    chosen (ties: the simpler regressor, the smaller strength). With a single wording there is no
    other to hold out, and none is ever served but that one: by image is enough. With a few nothing
    can be shown, and the best fixed arm serves.

    Args:
        budget: Visual tokens kept.
        by_image: Evidence for each of `tries`.
        by_wording: The same by wording, or None where there are too few.
        images: How many images there are.
        forms: How many wordings there are.

    Returns:
        Every try, one of them chosen or none; and why none was, empty where one was.
    """
    names = tries()
    wording = [None] * len(names) if by_wording is None else list(by_wording)
    shown = [i for i, evidence in enumerate(by_image) if evidence.shown]
    both = [i for i in shown if (held := wording[i]) is None or held.shown]
    why = ""
    if images < MIN_IMAGES:
        why = f"too few images: {images}, and a gain is shown with {MIN_IMAGES} or more"
    elif not shown:
        why = f"no gain by image is shown {_at(by_image)}"
    elif 1 < forms < MIN_FORMS:
        why = (
            f"too few wordings: {forms} question forms, and a gain is shown by wording with "
            f"{MIN_FORMS} or more (or with one alone, which then is all that is served)"
        )
    elif not both:
        held_out = [held for i in shown if (held := wording[i]) is not None]
        why = f"no gain that is shown by image is shown by wording too {_at(held_out)}"
    best = None if why else max(both, key=lambda i: by_image[i].gain)
    rows = [
        CvRow(budget, name, strength, image, held, chosen=i == best)
        for i, ((name, strength), image, held) in enumerate(
            zip(names, by_image, wording, strict=True)
        )
    ]
    return rows, why


def _at(tried: Sequence[Evidence]) -> str:
    best = min(tried, key=lambda evidence: evidence.p_value)
    return (
        f"at {CONFIDENCE:.0%} over all tries and budgets (at best {best.gain:+.3f}, "
        f"p = {best.p_value:.2g})"
    )
