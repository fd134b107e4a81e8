"""What several rivals share: rankings, and shares of a budget."""

from __future__ import annotations

import math

from torch import Tensor

from resprune.methods.base import Inputs, Selection, budget_of


def by_score(score: Tensor) -> Tensor:
    """Order indices by falling score, ties to the lowest index.

    Args:
        score: One value a token, shape (T,).

    Returns:
        A permutation, shape (T,), int64.
    """
    return score.argsort(descending=True, stable=True)


def top(image: Inputs, score: Tensor, k: int) -> Selection:
    """Keep the ``k`` tokens of highest score.

    Args:
        image: The image.
        score: One value a token, shape (T,).
        k: Count.

    Returns:
        The selection, best first.
    """
    return Selection(by_score(score)[: budget_of(image, k)])


def part_of(share: float, k: int) -> int:
    """Return ``floor(share k)``, where 0.29 of 100 is 29 although the product falls short of it."""
    return math.floor(share * k + 1e-9)
