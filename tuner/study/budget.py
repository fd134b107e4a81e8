"""Budgets of a study: what is valid, and how many tokens each one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from resprune.errors import StudyError


def check_budget(value: Any) -> Any:
    """Check one budget and return it.

    Raises:
        ValueError: Not a count of at least 1 nor a ratio above 0 and at most 1.
    """
    count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    ratio = isinstance(value, float) and 0.0 < value <= 1.0
    if count or ratio:
        return value
    raise ValueError(
        f"budget {value!r} is out of range; give a count of at least 1 token (such as 22) or "
        "a ratio above 0 and at most 1.0 (such as 0.11)"
    )


Budget = Annotated[int | float, BeforeValidator(check_budget)]


def count_of(budget: int | float, visual_tokens: int) -> int:
    """Return how many of an image's tokens a budget keeps; a count over T stays as it is."""
    return max(1, round(budget * visual_tokens)) if isinstance(budget, float) else budget


def counts_of(
    budgets: Sequence[int | float], visual_tokens: int | None, where: str, lengths: Sequence[int]
) -> dict[int | float, int]:
    """Turn budgets into counts of tokens; see ``StudyConfig.counts``."""
    found: dict[int | float, int] = {}
    for budget in budgets:
        if isinstance(budget, float):
            each = lengths if visual_tokens is None else [visual_tokens]
            if not each:
                raise StudyError(
                    f"{where}: search.budget: ratio {budget} is another count for each image; "
                    "its mean is known once the images are"
                )
            count = round(sum(count_of(budget, length) for length in each) / len(each))
        else:
            count = budget
            if visual_tokens is not None and count > visual_tokens:
                raise StudyError(
                    f"{where}: search.budget: {count} is over the {visual_tokens} visual tokens "
                    f"of this model; give counts from 1 to {visual_tokens}"
                )
        if count in found.values():
            raise StudyError(
                f"{where}: search.budget: {budget} is {count} tokens, which another budget "
                "already is; keep one of them"
            )
        found[budget] = count
    return found
