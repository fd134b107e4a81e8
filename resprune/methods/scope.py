"""SCOPE: saliency-weighted coverage (2025)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from resprune.methods.base import ATTENTION, Inputs, Method, Selection, budget_of, needed, register
from resprune.options import Options, Search
from resprune.subspace import gram_matrix


class ScopeOptions(Options):
    """Options of SCOPE.

    Attributes:
        exponent: Exponent of the attention; 0 is coverage alone.
    """

    exponent: Annotated[float, Field(ge=0.0, le=16.0), Search(low=0.0, high=4.0, step=0.25)] = 1.0


@register
class Scope(Method[ScopeOptions]):
    """Pick the token whose gain in coverage, times its CLS attention, is largest.

    ``gain_j = sum_i max(0, cos_ij - c_i) * a_j^exponent``, with ``c_i`` the best cosine of token i
    with a kept one, from 0.

    Source: SCOPE, Saliency-Coverage Oriented Token Pruning (2025).
    """

    name = "scope"
    options = ScopeOptions
    nested = True

    def needs(self, options: ScopeOptions) -> frozenset[str]:
        """Attention where the exponent lets it count."""
        return frozenset({ATTENTION} if options.exponent > 0 else ())

    def select(self, image: Inputs, k: int, options: ScopeOptions) -> Selection:
        """Order by falling weighted gain."""
        count, cosines = budget_of(image, k), gram_matrix(image.tokens)
        if options.exponent == 0:
            return Selection(coverage_order(cosines, torch.ones_like(cosines[0]), count))
        attention = needed(image, ATTENTION, self.name)
        return Selection(coverage_order(cosines, attention, count, options.exponent))


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
