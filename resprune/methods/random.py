"""Random tokens: the floor that every method has to beat."""

from __future__ import annotations

import torch

from resprune.methods.base import MethodOptions, Selection, SelectionInput, budget_of, register


@register
class RandomTokens:
    """A seeded permutation, the same on every device.

    One seed gives every image of T tokens the same draw, so give each sample its own.
    """

    name = "random"
    nested = True
    needs: frozenset[str] = frozenset()

    def select(self, inputs: SelectionInput, k: int, options: MethodOptions) -> Selection:
        """Order by a permutation drawn from ``options.seed``."""
        budget = budget_of(inputs, k)
        generator = torch.Generator().manual_seed(options.seed)
        order = torch.randperm(inputs.tokens.shape[0], generator=generator)[:budget]
        return Selection(order.to(inputs.tokens.device))
