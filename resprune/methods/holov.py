"""HoloV: a quota for each crop of the image (arXiv 2510.02912)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from resprune.methods._common import by_score
from resprune.methods.base import ATTENTION, Inputs, Method, Selection, budget_of, needed, register
from resprune.options import Options, Search
from resprune.subspace.gram import unit_rows


class HoloVOptions(Options):
    """Options of HoloV.

    Attributes:
        crops: How many runs of consecutive tokens the image is cut into.
        sharpness: Exponent of a crop's mean attention, which its quota follows; 0 gives all crops
            alike.
        diversity: Weight, beside attention's 1, of how much a token's cosines with the rest of its
            crop vary.
    """

    crops: Annotated[int, Field(ge=1, le=1024), Search(low=4, high=32, step=4)] = 16
    sharpness: Annotated[float, Field(ge=0.0, le=16.0), Search(low=0.0, high=2.0, step=0.25)] = 1.0
    diversity: Annotated[float, Field(ge=0.0, le=16.0), Search(low=0.0, high=1.0, step=0.05)] = 0.0


@register
class HoloV(Method[HoloVOptions]):
    """Share the budget among crops by their attention, and keep the best tokens of each.

    Crops are runs of consecutive tokens, the first ones one token longer where T is no multiple.
    A crop's quota is the whole part of its share of the budget; what is left goes, one each, to the
    crops of the largest shares. Where a quota is more than its crop holds, the published code fills
    up with padding; here the others share what is over by the same rule, so that exactly
    ``min(k, T)`` tokens are kept.

    Inside a crop tokens are ranked by attention plus ``diversity`` times the variance of their
    cosines, which is scaled to the crop's mean attention, so that it cannot move quotas. The paper
    has such a term (0.09 of it in the published code); but that code ranks by attention alone, and
    0 keeps what it keeps.

    Source: HoloV, arXiv 2510.02912.
    """

    name = "holov"
    options = HoloVOptions

    def needs(self, options: HoloVOptions) -> frozenset[str]:
        """Attention."""
        return frozenset({ATTENTION})

    def select(self, image: Inputs, k: int, options: HoloVOptions) -> Selection:
        """Crop by crop, the best token of each first."""
        count = budget_of(image, k)
        attention = needed(image, ATTENTION, self.name).clamp_min(0)
        sizes = crop_sizes(len(attention), options.crops)
        attentions = torch.split(attention, sizes)
        means = torch.stack([crop.mean() for crop in attentions]).double().cpu()
        quotas = shared(count, means**options.sharpness, torch.tensor(sizes))
        rows = torch.split(unit_rows(image.tokens)[0], sizes) if options.diversity else attentions
        kept, start = [], 0
        for score, own, quota in zip(attentions, rows, quotas.tolist(), strict=True):
            if options.diversity:
                score = score + options.diversity * varied(own, score.mean())
            kept.append(start + by_score(score)[:quota])
            start += len(score)
        return Selection(torch.cat(kept))


def crop_sizes(tokens: int, crops: int) -> list[int]:
    """Cut ``tokens`` into at most ``crops`` runs, the longer ones first; none is empty."""
    size, longer = divmod(tokens, crops)
    return [length for i in range(crops) if (length := size + (i < longer))]


def shared(k: int, weight: Tensor, room: Tensor) -> Tensor:
    """Share a budget among crops.

    Args:
        k: The budget, at most ``room.sum()``.
        weight: Non-negative weight of each of C crops, shape (C,), float64; all 0 count alike.
        room: Tokens of each crop, shape (C,), int64.

    Returns:
        Quotas, shape (C,), int64, which sum to k and are within ``room``.
    """
    quota = torch.zeros_like(room)
    while (left := k - int(quota.sum())) > 0:
        open_ = (quota < room).double()
        share = open_ * weight
        share = share if share.sum() > 0 else open_
        share = share / share.sum() * left
        more = share.floor().to(torch.int64)
        more[by_score(share)[: left - int(more.sum())]] += 1
        quota = torch.minimum(quota + more, room)
    return quota


def varied(rows: Tensor, mean: Tensor) -> Tensor:
    """Measure how much each token's cosines with the rest of its crop vary.

    Args:
        rows: Unit rows of the crop, shape (n, d).
        mean: What the result is scaled to have as its mean, a scalar.

    Returns:
        Variances, shape (n,), float32; 0 where all are.
    """
    others = len(rows) - 1
    if others < 1:
        return mean.new_zeros(len(rows))
    cosines = rows @ rows.T
    off = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    variance = cosines[off].view(len(rows), others).var(dim=1, correction=0)
    average = variance.mean()
    return torch.where(average > 0, variance / average * mean, torch.zeros_like(variance))
