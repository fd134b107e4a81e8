"""ResPrune: greedy subspace expansion weighted by relevance (arXiv 2603.21105)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from resprune.errors import ResPruneError
from resprune.methods.base import (
    Batch,
    Inputs,
    Nested,
    Selection,
    budget_of,
    needed,
    register,
)
from resprune.options import ALPHA_MAX, Options, Relevance, Search, SeedStrategy
from resprune.relevance import relevance_weights
from resprune.seeds import seed_index, seed_index_batch
from resprune.subspace import gram_matrix, greedy_order, greedy_order_batch


class ResPruneOptions(Options):
    """Options of ResPrune.

    Attributes:
        alpha: Exponent of the relevance; 0 is pure geometry.
        seed_strategy: How the first token is chosen.
        relevance: How relevance is made.
    """

    alpha: Annotated[
        float,
        Field(ge=0.0, le=ALPHA_MAX),
        Search(low=0.0, high=4.0, step=0.05, per_prompt=True, curve=True),
    ] = 0.5
    seed_strategy: Annotated[
        SeedStrategy, Search(choices=("cls_attention", "l2_norm"), per_prompt=True)
    ] = "l2_norm"
    relevance: Relevance = Relevance()


@register
class ResPrune(Nested[ResPruneOptions]):
    """Pick the token of largest residual energy times ``r^alpha`` outside the kept subspace.

    Source: ResPrune, arXiv 2603.21105.
    """

    name = "resprune"
    options = ResPruneOptions

    def needs(self, options: ResPruneOptions) -> frozenset[str]:
        """Relevance where a weight or the seed is made from it, and the seed's signal."""
        strategy = options.seed_strategy
        found = {strategy} if strategy.endswith("_attention") else set()
        if options.alpha > 0 or strategy == "relevance":
            found.add("relevance")
        return frozenset(found)

    def select(self, image: Inputs, k: int, options: ResPruneOptions) -> Selection:
        """Order by greedy subspace expansion."""
        count = budget_of(image, k)
        seed = seed_index(
            options.seed_strategy,
            tokens=image.tokens,
            relevance=image.relevance,
            signals=image.signals,
        )
        return Selection(greedy_order(image.tokens, self.weights(image, options), count, seed))

    def order_many(self, batch: Batch, options: Sequence[ResPruneOptions], k: int) -> Tensor:
        """Expand every image under every prompt and option, sharing its Gram matrix."""
        images, tokens, _ = batch.tokens.shape
        prompts = 1 if batch.relevance is None else batch.relevance.shape[1]
        relevance = batch.relevance
        if relevance is None:
            relevance = torch.ones(images, 1, tokens, device=batch.tokens.device)
        exponents = torch.tensor([each.alpha for each in options], dtype=torch.float32)
        weights = relevance_weights(relevance, exponents)  # (B, Q, A, T)
        seeds = {
            name: self._seeds(batch, name, prompts)
            for name in {each.seed_strategy for each in options}
        }
        first = torch.stack([seeds[each.seed_strategy] for each in options], dim=2)
        several = prompts * len(options) > 1
        order = greedy_order_batch(
            batch.tokens,
            weights.flatten(1, 2),
            k,
            first.flatten(1, 2),
            gram=gram_matrix(batch.tokens) if several else None,
            lengths=batch.lengths,
        )
        return order.reshape(images, prompts, len(options), -1)

    def weights(self, image: Inputs, options: ResPruneOptions) -> Tensor:
        """``r^alpha``; ones without relevance, which alpha 0 does not need."""
        if image.relevance is None and options.alpha != 0:
            raise ResPruneError(
                f"method 'resprune' with alpha {options.alpha} needs the relevance map; pass "
                "relevance_scores, or set alpha to 0 for pure geometry."
            )
        if image.relevance is None:
            return torch.ones(image.tokens.shape[0], device=image.tokens.device)
        return relevance_weights(needed(image, "relevance", self.name), options.alpha)

    def _seeds(self, batch: Batch, strategy: str, prompts: int) -> Tensor:
        """Seed of each image and prompt, shape (B, Q); -1 for none."""
        columns = []
        for prompt in range(prompts):
            seed = seed_index_batch(
                strategy,
                tokens=batch.tokens,
                relevance=None if batch.relevance is None else batch.relevance[:, prompt],
                signals=batch.signals,
                lengths=batch.lengths,
            )
            none = torch.full(batch.tokens.shape[:1], -1, device=batch.tokens.device)
            columns.append(none if seed is None else seed)
            if strategy != "relevance":
                return columns[0][:, None].expand(-1, prompts)
        return torch.stack(columns, dim=1)
