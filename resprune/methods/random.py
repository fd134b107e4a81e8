"""Random tokens: the floor that every method has to beat."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from pydantic import Field

from resprune.methods.base import Inputs, Method, Selection, budget_of, register
from resprune.options import Options


class RandomOptions(Options):
    """Options of the random draw.

    Attributes:
        seed: Names the draw.
    """

    seed: int = Field(default=0, ge=0)


@register
class RandomTokens(Method[RandomOptions]):
    """A permutation drawn for each seed and ``Inputs.key``, the same on every device."""

    name = "random"
    options = RandomOptions
    nested = True
    draws = True

    def select(self, image: Inputs, k: int, options: RandomOptions) -> Selection:
        """Order by the permutation."""
        count = budget_of(image, k)
        text = f"{options.seed} {image.key}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        draw = np.random.default_rng(int.from_bytes(digest, "big"))
        order = torch.from_numpy(draw.permutation(image.tokens.shape[0])[:count])
        return Selection(order.to(image.tokens.device, torch.int64))
