"""SparseVLM: text tokens that look at the image rate its tokens (arXiv 2410.04417)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from resprune.methods.base import register
from resprune.methods.layers._common import geometric, top
from resprune.methods.layers.base import Drop, LayerMethod, LayerView, scaled_layers
from resprune.options import Options, Search

_LAYERS = (3, 7, 16)
_PUBLISHED = {  # tokens left after each drop, recycled ones among them, by T and k
    (576, 113): (309, 204, 113),
    (576, 39): (312, 117, 39),
    (576, 27): (249, 55, 27),
    (576, 18): (82, 32, 18),
}


class SparseVLMOptions(Options):
    """Options of SparseVLM.

    Attributes:
        recycle: Whether the best of what is dropped comes back, merged into fewer tokens.
    """

    recycle: Annotated[Literal["on", "off"], Search(choices=("on", "off"))] = "on"


@register
class SparseVLM(LayerMethod[SparseVLMOptions]):
    """Drop after layers 2, 6 and 15 of 32 what the raters attend to least there.

    Raters are the tokens behind the image that are more like its tokens than the average, among
    the input embeddings. Of d dropped tokens the best 0.3 d + 1 are recycled: clustered by density
    peaks into a tenth as many, each of which stands at its centre's slot with the cluster's mean.
    At T = 576 the published counts are those of k = 113, 39, 27 and 18.

    Source: SparseVLM, version 1, arXiv 2410.04417.
    """

    name = "sparsevlm"
    options = SparseVLMOptions
    published = "compact"

    def schedule(
        self, options: SparseVLMOptions, depth: int, tokens: int, k: int
    ) -> Mapping[int, int]:
        """Drop three times, by published counts where T and k have them, else by one share."""
        counts = _PUBLISHED.get((tokens, k)) or geometric(tokens, k, len(_LAYERS))
        return dict(zip(scaled_layers(_LAYERS, depth), counts, strict=True))

    def reads(self, options: SparseVLMOptions, depth: int) -> frozenset[int]:
        """Read the embeddings, and the layer before each drop."""
        drops = scaled_layers(_LAYERS, depth)
        return frozenset({0, *(layer - 1 for layer in drops)}) - frozenset(drops)

    def visit(
        self, view: LayerView, memory: dict[str, Any], options: SparseVLMOptions
    ) -> Drop | None:
        """Choose raters at layer 0, score in the layer before a drop, drop.

        On few layers a layer behind a drop is also the one before the next: its attention is taken
        over what has just been kept.
        """
        rows = range(len(view.visual))
        drops = scaled_layers(_LAYERS, view.depth)
        if view.index == 0:
            memory["raters"] = [_raters(view, b) for b in rows]
        drop = None
        if view.index in drops:
            kept, merged = zip(
                *(_keep(view, b, memory["scores"][b], options) for b in rows), strict=True
            )
            drop = Drop(list(kept), list(merged))
        if view.index + 1 in drops:
            left = view.visual if drop is None else drop.kept
            memory["scores"] = [_scores(view, b, memory["raters"][b], left[b]) for b in rows]
        return drop


def _raters(view: LayerView, row: int) -> Tensor:
    """Return a row's raters, counted from its end, where drops do not move them."""
    end, text = view.hidden.shape[1], view.text[row]
    if not len(text):  # the prompt ends with the image
        return torch.ones(1, dtype=torch.int64, device=text.device)
    hidden = view.hidden[row].float()
    likeness = (hidden[view.visual[row]] @ hidden[text].T).softmax(dim=1).mean(dim=0)
    above = likeness > likeness.mean()
    return end - (text[above] if above.any() else text)


def _scores(view: LayerView, row: int, raters: Tensor, left: Tensor) -> Tensor:
    """Return the attention to what is left of a row's visual tokens, mean over heads and raters."""
    attention = view.attention(row, view.hidden.shape[1] - raters)
    if len(left) < len(view.visual[row]):
        gone = view.visual[row][~torch.isin(view.visual[row], left)]
        attention = attention.index_fill(2, gone, 0)
        attention = attention / attention.sum(dim=2, keepdim=True)
    return attention.mean(dim=(0, 1))[left]


def _keep(
    view: LayerView, row: int, scores: Tensor, options: SparseVLMOptions
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return what stays of a row, and what of it is merged."""
    slots, count = view.visual[row], view.counts[row]
    if options.recycle == "off" or count == len(slots):
        return top(slots, scores, count), None
    plain = count
    while plain > 0 and plain + _clusters(len(slots) - plain) > count:
        plain -= 1
    stay = top(slots, scores, plain)
    out = ~torch.isin(slots, stay)
    pool = top(slots[out], scores[out], _pool(len(slots) - plain))
    centres, means = density_peaks(view.hidden[row, pool], count - plain)
    return torch.cat([stay, pool[centres]]).sort().values, (pool[centres], means)


def _pool(dropped: int) -> int:
    return 3 * dropped // 10 + 1


def _clusters(dropped: int) -> int:
    return _pool(dropped) // 10 + 1


def density_peaks(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cluster by density peaks among nearest neighbours.

    Published code breaks ties of density by random noise; here the lower row is the denser.

    Args:
        x: Rows to cluster, shape (n, D).
        count: How many clusters, at most n; as many neighbours make the density.

    Returns:
        The centres' rows, sorted, shape (count,), and the mean of each cluster, (count, D), in
        the dtype of ``x``.
    """
    wide, place = x.float(), torch.arange(len(x), device=x.device)
    apart = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart / x.shape[1] ** 0.5
    near = apart.topk(count, largest=False).values
    density = (-near.square().mean(dim=1)).exp()
    tied = (density[None] == density[:, None]) & (place[None] < place[:, None])
    denser = (density[None] > density[:, None]) | tied
    away = torch.where(denser, apart, apart.max()).amin(dim=1)
    centres = top(place, away * density, count)
    member = apart[:, centres].argmin(dim=1)
    member[centres] = torch.arange(count, device=x.device)
    means = torch.stack([wide[member == c].mean(dim=0) for c in range(count)])
    return centres, means.to(x.dtype)
