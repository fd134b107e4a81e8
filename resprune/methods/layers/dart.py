"""DART: tokens that are least like a few pivots stay (arXiv 2502.11494)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity

from resprune.methods.base import register
from resprune.methods.layers._common import top
from resprune.methods.layers.base import Drop, LayerMethod, LayerView, scaled_layers
from resprune.options import Options, Search


class DartOptions(Options):
    """Options of DART.

    Attributes:
        layer: The layer K before which it drops, of a decoder of 32 layers.
        image_pivots: Pivots among the visual tokens; they stay.
        text_pivots: Pivots in the text behind the image.
    """

    layer: Annotated[int, Field(ge=1, le=31), Search(low=1, high=16, step=1)] = 2
    image_pivots: Annotated[int, Field(ge=1, le=64), Search(low=1, high=8, step=1)] = 4
    text_pivots: Annotated[int, Field(ge=0, le=64), Search(low=0, high=8, step=1)] = 4


@register
class Dart(LayerMethod[DartOptions]):
    """Keep image pivots, and for each pivot the visual tokens that are least like it.

    Pivots are the tokens whose keys in layer K - 1, heads flattened, have the largest L1 norm. One
    after the other takes the tokens of least cosine with it, under the decoder's final norm, out of
    those that are left. Published code takes the same number for each, 4 + 8 floor(k / 8) in all;
    here the first pivots take one more, so that exactly k stay.

    Source: DART, arXiv 2502.11494.
    """

    name = "dart"
    options = DartOptions

    def schedule(self, options: DartOptions, depth: int, tokens: int, k: int) -> Mapping[int, int]:
        """Drop once, before layer K."""
        return {_layer(options, depth): k}

    def reads(self, options: DartOptions, depth: int) -> frozenset[int]:
        """Read layer K - 1."""
        return frozenset({_layer(options, depth) - 1})

    def visit(self, view: LayerView, memory: dict[str, Any], options: DartOptions) -> Drop | None:
        """Weigh keys in layer K - 1, drop before layer K."""
        if view.index < _layer(options, view.depth):
            memory["norms"] = view.keys().float().abs().sum(dim=(1, 3))
            return None
        states, norms = view.normed().float(), memory["norms"]
        return Drop([_keep(view, b, states[b], norms[b], options) for b in range(len(states))])


def _layer(options: DartOptions, depth: int) -> int:
    return scaled_layers([options.layer], depth)[0]


def _keep(view: LayerView, b: int, states: Tensor, norms: Tensor, options: DartOptions) -> Tensor:
    image, text, count = view.visual[b], view.text[b], view.counts[b]
    anchors = top(image, norms[image], min(options.image_pivots, count))
    texts = top(text, norms[text], options.text_pivots)
    rest, kept = image[~torch.isin(image, anchors)], [anchors]
    pivots = _in_order([*anchors.tolist(), *texts.tolist()], int(view.valid[b].int().argmax()))
    share, more = divmod(count - len(anchors), max(len(pivots), 1))
    for place, pivot in enumerate(pivots):
        likeness = cosine_similarity(states[pivot], states[rest], dim=-1)
        kept.append(top(rest, -likeness, share + (place < more)))
        rest = rest[~torch.isin(rest, kept[-1])]
    return torch.cat(kept).sort().values


def _in_order(pivots: list[int], first: int) -> list[int]:
    """Order pivots as published code does: that of a Python set of positions in the prompt."""
    return [first + place for place in {slot - first for slot in pivots}]
