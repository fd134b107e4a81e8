"""SCOPE: saliency-weighted coverage (2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from resprune.methods._common import attention_of
from resprune.methods.base import MethodOptions, Selection, SelectionInput, budget_of, register
from resprune.subspace import gram_matrix


@register
class Scope:
    """Pick the token whose gain in coverage, times its CLS attention, is largest.

    ``gain_j = sum_i max(0, cos_ij - c_i) * a_j``, with ``c_i`` the best cosine of token i with a
    kept one, from 0. The exponent on the attention is SCOPE's own default of 1; ``options.alpha``
    is an exponent of the relevance and is not read.

    Source: SCOPE, Saliency-Coverage Oriented Token Pruning (2025).
    """

    name = "scope"
    nested = True
    needs = frozenset({"cls_attention"})

    def select(self, inputs: SelectionInput, k: int, options: MethodOptions) -> Selection:
        """Order by falling weighted gain."""
        budget = budget_of(inputs, k)
        attention = attention_of(inputs, self.name)
        return Selection(coverage_order(gram_matrix(inputs.tokens), attention, budget))


def coverage_order(cosines: Tensor, attention: Tensor, k: int, exponent: float = 1.0) -> Tensor:
    """Order tokens by greedy weighted coverage.

    Args:
        cosines: Cosines between tokens, shape (T, T).
        attention: Non-negative attention, shape (T,).
        k: Count of tokens, at most T.
        exponent: Exponent of the attention.

    Returns:
        Unique indices in pick order, shape (k,), int64; ties to the lowest.
    """
    weight = attention.clamp_min(0).to(cosines.dtype) ** exponent
    covered = torch.zeros_like(weight)
    kept = torch.zeros_like(weight, dtype=torch.bool)
    order = torch.empty(k, dtype=torch.int64, device=cosines.device)
    for step in range(k):
        gain = (cosines - covered).clamp_min_(0).sum(dim=1) * weight
        pick = gain.masked_fill_(kept, -torch.inf).argmax()
        order[step] = pick
        kept[pick] = True
        covered = torch.maximum(covered, cosines[pick])
    return order
