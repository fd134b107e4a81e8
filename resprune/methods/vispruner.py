"""VisPruner: important tokens by attention, diverse ones by deduplication (arXiv 2412.01818)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from resprune.methods._common import by_score, part_of
from resprune.methods.base import ATTENTION, Inputs, Method, Selection, budget_of, needed, register
from resprune.options import Options, Search
from resprune.subspace import gram_matrix

_DROPPED_A_ROUND = 8


class VisPrunerOptions(Options):
    """Options of VisPruner.

    Attributes:
        important: Share of the budget that is chosen by attention; the rest is diverse.
    """

    important: Annotated[float, Field(ge=0.0, lt=1.0), Search(low=0.0, high=0.9, step=0.1)] = 0.5


@register
class VisPruner(Method[VisPrunerOptions]):
    """A share of the budget by attention; the rest is what is left after dropping duplicates.

    The rest starts in the order of falling attention. Each round deals it alternately into two
    halves, drops from the first the 8 tokens most similar to one of the second, and goes on with
    what is left of the first, most similar first, followed by the second. The rounds make it
    sensitive to near ties.

    Source: VisPruner, arXiv 2412.01818 v2.
    """

    name = "vispruner"
    options = VisPrunerOptions

    def needs(self, options: VisPrunerOptions) -> frozenset[str]:
        """Attention."""
        return frozenset({ATTENTION})

    def select(self, image: Inputs, k: int, options: VisPrunerOptions) -> Selection:
        """Important tokens by falling attention, then the diverse ones."""
        count = budget_of(image, k)
        order = by_score(needed(image, ATTENTION, self.name))
        important = part_of(options.important, count)
        diverse = drop_duplicates(image.tokens, order[important:], count - important)
        return Selection(torch.cat((order[:important], diverse)))


def drop_duplicates(tokens: Tensor, rest: Tensor, count: int) -> Tensor:
    """Drop the most duplicate tokens in rounds until ``count`` are left.

    Args:
        tokens: Shape (T, d).
        rest: Indices to choose among, by falling attention, shape (R,), R >= count.
        count: How many to keep, at least 1.

    Returns:
        Indices, shape (count,), int64.
    """
    similar = gram_matrix(tokens[rest])
    left = torch.arange(len(rest), device=tokens.device)
    while len(left) > count:
        first, second = left[::2], left[1::2]
        duplicate = similar[first[:, None], second].amax(dim=1)
        dropped = min(_DROPPED_A_ROUND, len(left) - count)
        left = torch.cat((first[by_score(duplicate)[dropped:]], second))
    return rest[left]
