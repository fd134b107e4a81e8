"""The unpruned model: everything is kept."""

from __future__ import annotations

import torch

from resprune.errors import ResPruneError
from resprune.methods.base import Inputs, Method, Selection, budget_of, register
from resprune.options import Options


class UnprunedOptions(Options):
    """It has none."""


@register
class Unpruned(Method[UnprunedOptions]):
    """Keep every token; its one budget is the ratio 1.0."""

    name = "unpruned"
    options = UnprunedOptions
    stage = "none"

    def select(self, image: Inputs, k: int, options: UnprunedOptions) -> Selection:
        """Keep everything.

        Raises:
            ResPruneError: Fewer tokens than the image has are asked for.
        """
        count, tokens = budget_of(image, k), image.tokens.shape[0]
        if count < tokens:
            raise ResPruneError(
                f"method 'unpruned' keeps all of an image's {tokens} tokens and was asked for {k}; "
                "give it the budget 1.0, or use a method that prunes"
            )
        return Selection(torch.arange(tokens, device=image.tokens.device))
