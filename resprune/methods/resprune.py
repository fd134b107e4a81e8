"""ResPrune: greedy subspace expansion weighted by relevance (arXiv 2603.21105)."""

from __future__ import annotations

import torch

from resprune.errors import ResPruneError
from resprune.methods.base import (
    MethodOptions,
    Selection,
    SelectionInput,
    budget_of,
    needed,
    register,
)
from resprune.relevance import relevance_weights
from resprune.seeds import seed_index
from resprune.subspace import greedy_order


@register
class ResPrune:
    """Pick the token of largest residual energy times ``r^alpha`` outside the kept subspace.

    Without relevance (a prompt without words, or alpha 0) the choice is pure geometry.

    Source: ResPrune, arXiv 2603.21105.
    """

    name = "resprune"
    nested = True
    needs = frozenset({"relevance"})

    def select(self, inputs: SelectionInput, k: int, options: MethodOptions) -> Selection:
        """Order by greedy subspace expansion; reads ``alpha`` and ``seed_strategy``."""
        budget = budget_of(inputs, k)
        if inputs.relevance is None and options.alpha != 0:
            raise ResPruneError(
                f"method 'resprune' with alpha {options.alpha} needs the relevance map; pass "
                "relevance_scores, or set alpha to 0 for pure geometry."
            )
        relevance = (
            torch.ones(inputs.tokens.shape[0], device=inputs.tokens.device)
            if inputs.relevance is None
            else needed(inputs, "relevance", self.name)
        )
        seed = seed_index(
            options.seed_strategy,
            tokens=inputs.tokens,
            relevance=inputs.relevance,
            signals=inputs.signals,
        )
        weights = relevance_weights(relevance, options.alpha)
        return Selection(greedy_order(inputs.tokens, weights, budget, seed))
