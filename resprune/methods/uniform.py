"""Evenly spaced tokens: a control that looks at nothing."""

from __future__ import annotations

import torch

from resprune.methods.base import Inputs, Method, Selection, budget_of, register
from resprune.options import Options


class UniformOptions(Options):
    """It has none."""


@register
class Uniform(Method[UniformOptions]):
    """Keep the middle token of each of ``k`` equal stretches of the tokens, in their order."""

    name = "uniform"
    options = UniformOptions

    def select(self, image: Inputs, k: int, options: UniformOptions) -> Selection:
        """Space the tokens evenly."""
        count, tokens = budget_of(image, k), image.tokens.shape[0]
        places = torch.arange(count, device=image.tokens.device)
        return Selection((2 * places + 1) * tokens // (2 * count))
