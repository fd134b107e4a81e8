"""VisionZip: dominant tokens by attention, the rest merged (arXiv 2412.04467)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from resprune.methods._common import by_score, part_of
from resprune.methods.base import (
    ATTENTION,
    Inputs,
    Method,
    Selection,
    budget_of,
    needed,
    register,
)
from resprune.options import Options, Search
from resprune.subspace.gram import unit_rows


class VisionZipOptions(Options):
    """Options of VisionZip.

    Attributes:
        contextual: Share of the budget that is contextual; the rest is dominant.
    """

    contextual: Annotated[float, Field(ge=0.0, lt=1.0), Search(low=0.0, high=0.5, step=1 / 32)] = (
        5 / 32
    )


@register
class VisionZip(Method[VisionZipOptions]):
    """Keep the tokens CLS attends to, and merge the others into a few contextual tokens.

    By default five of 32 tokens of the budget are contextual, as in the published 192 = 162 + 30,
    128 = 108 + 20 and 64 = 54 + 10. Two things differ from the publication, for every method here
    chooses among the same patch tokens: the CLS token, which it keeps beside them, gives its place
    to one more dominant patch; and merging averages the tokens in the LLM's input-embedding space,
    not before the projector. ``extras["keys"]`` assigns the merged tokens; without it the tokens
    do.

    Source: VisionZip, arXiv 2412.04467.
    """

    name = "visionzip"
    options = VisionZipOptions

    def needs(self, options: VisionZipOptions) -> frozenset[str]:
        """Attention."""
        return frozenset({ATTENTION})

    def select(self, image: Inputs, k: int, options: VisionZipOptions) -> Selection:
        """Dominant tokens by falling attention, then contextual ones by position."""
        count = budget_of(image, k)
        attention = needed(image, ATTENTION, self.name)
        keys = needed(image, "keys", self.name) if "keys" in image.extras else image.tokens
        indices, features = dominant_and_contextual(
            image.tokens, attention, keys, count, part_of(options.contextual, count)
        )
        return Selection(indices, features)


def dominant_and_contextual(
    tokens: Tensor, attention: Tensor, keys: Tensor, k: int, contextual: int
) -> tuple[Tensor, Tensor]:
    """Choose dominant tokens and merge what is left into evenly spaced targets.

    Args:
        tokens: Shape (T, d).
        attention: Shape (T,).
        keys: What similarity is measured on, shape (T, c).
        k: Count of tokens in all, at most T.
        contextual: How many of them are contextual, below k.

    Returns:
        Indices (k,), dominant by falling attention and then contextual by position; and features
        (k, d): a contextual token is the target plus the mean of the tokens assigned to it.
    """
    dominant = by_score(attention)[: k - contextual]
    features = tokens[dominant]
    if contextual == 0:
        return dominant, features
    free = torch.ones(tokens.shape[0], dtype=torch.bool, device=tokens.device)
    free[dominant] = False
    rest = free.nonzero().squeeze(1)
    step = max(1, len(rest) // contextual)
    is_target = torch.zeros(len(rest), dtype=torch.bool, device=tokens.device)
    is_target[torch.arange(contextual, device=tokens.device) * step] = True
    targets, others = rest[is_target], rest[~is_target]

    values = tokens.float() if tokens.dtype != torch.float64 else tokens
    merged = values[targets]
    if len(others):
        unit, _ = unit_rows(keys)
        nearest = (unit[others] @ unit[targets].T).argmax(dim=1)
        member = torch.nn.functional.one_hot(nearest, contextual).to(values.dtype)
        counts = member.sum(dim=0).clamp_min(1)
        merged = merged + (member.T @ values[others]) / counts[:, None]
    return torch.cat((dominant, targets)), torch.cat((features, merged.to(tokens.dtype)))
