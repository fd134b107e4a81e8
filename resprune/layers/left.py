"""What was left of a prompt's visual tokens inside the LLM."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Left:
    """Visual tokens by decoder layer, filled in while the prompt runs.

    Attributes:
        depth: Decoder layers L.
        entering: Visual tokens of each row that entered the LLM; empty before the prompt ran.
        places: What was left, by the layer before which others were dropped: sorted places among
            the visual tokens of the row that entered, one (k_b,) tensor a row.
    """

    depth: int
    entering: list[int] = field(default_factory=list)
    places: dict[int, list[Tensor]] = field(default_factory=dict)

    def by_layer(self, row: int) -> list[int]:
        """Return how many visual tokens of a row each layer ran on, L counts."""
        counts, now = [], self.entering[row]
        for layer in range(self.depth):
            if layer in self.places:
                now = len(self.places[layer][row])
            counts.append(now)
        return counts

    def cost(self, row: int) -> float:
        """Return a row's visual tokens averaged over the decoder layers."""
        return sum(self.by_layer(row)) / self.depth

    def last(self, row: int) -> Tensor:
        """Return the places that were left of a row in the end, on the CPU."""
        if not self.places:
            return torch.arange(self.entering[row])
        return self.places[max(self.places)][row].cpu()
