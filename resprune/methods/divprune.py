"""DivPrune: spread the kept tokens as far apart as possible (arXiv 2503.02175)."""

from __future__ import annotations

import torch

from resprune.methods.base import Inputs, Method, Selection, budget_of, register
from resprune.options import Options
from resprune.subspace import gram_matrix


class DivPruneOptions(Options):
    """It has none."""


@register
class DivPrune(Method[DivPruneOptions]):
    """Greedy max-min diversity under cosine distance.

    The first token is the one farthest from its nearest neighbour; each next one is the token
    whose nearest kept token is farthest.

    Source: DivPrune, arXiv 2503.02175.
    """

    name = "divprune"
    options = DivPruneOptions
    nested = True

    def select(self, image: Inputs, k: int, options: DivPruneOptions) -> Selection:
        """Order by farthest-point sampling."""
        count = budget_of(image, k)
        distance = 1 - gram_matrix(image.tokens)
        order = torch.empty(count, dtype=torch.int64, device=distance.device)
        nearest = distance.clone().fill_diagonal_(torch.inf).amin(dim=1)
        pick = nearest.argmax()
        nearest = torch.full_like(nearest, torch.inf)
        for step in range(count):
            order[step] = pick
            # A kept token is struck for good, also where all that are left lie at distance 0.
            nearest = torch.minimum(nearest, distance[pick])
            nearest[pick] = -torch.inf
            pick = nearest.argmax()
        return Selection(order)
