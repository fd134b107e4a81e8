"""VisPruner: important tokens by attention, diverse ones by deduplication (arXiv 2412.01818)."""

from __future__ import annotations

import torch
from torch import Tensor

from resprune.methods._common import attention_of, by_score
from resprune.methods.base import MethodOptions, Selection, SelectionInput, budget_of, register
from resprune.subspace import gram_matrix

_DROPPED_A_ROUND = 8


@register
class VisPruner:
    """Half of the budget by attention; the rest is what is left after dropping duplicates.

    The rest starts in the order of falling attention. Each round deals it alternately into two
    halves, drops from the first the 8 tokens most similar to one of the second, and goes on with
    what is left of the first, most similar first, followed by the second. The rounds make it
    sensitive to near ties.

    Source: VisPruner, arXiv 2412.01818 v2.
    """

    name = "vispruner"
    nested = False
    needs = frozenset({"cls_attention"})

    def select(self, inputs: SelectionInput, k: int, options: MethodOptions) -> Selection:
        """Important tokens by falling attention, then the diverse ones."""
        budget = budget_of(inputs, k)
        order = by_score(attention_of(inputs, self.name))
        important = budget // 2
        diverse = drop_duplicates(inputs.tokens, order[important:], budget - important)
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
