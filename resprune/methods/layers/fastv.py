"""FastV: what the prompt's last token attends to in an early layer stays (arXiv 2403.06764)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from resprune.methods.base import register
from resprune.methods.layers._common import last_attention, top
from resprune.methods.layers.base import Drop, LayerMethod, LayerView, scaled_layers
from resprune.options import Options, Search


class FastVOptions(Options):
    """Options of FastV.

    Attributes:
        layer: The layer K before which it drops, of a decoder of 32 layers.
    """

    layer: Annotated[int, Field(ge=1, le=31), Search(low=1, high=16, step=1)] = 2


@register
class FastV(LayerMethod[FastVOptions]):
    """Keep the k visual tokens that get most attention in layer K - 1.

    The attention is that of the prompt's last token, mean over heads; the others are dropped before
    layer K.

    Source: FastV, arXiv 2403.06764.
    """

    name = "fastv"
    options = FastVOptions

    def schedule(self, options: FastVOptions, depth: int, tokens: int, k: int) -> Mapping[int, int]:
        """Drop once, before layer K."""
        return {_layer(options, depth): k}

    def reads(self, options: FastVOptions, depth: int) -> frozenset[int]:
        """Read layer K - 1."""
        return frozenset({_layer(options, depth) - 1})

    def visit(self, view: LayerView, memory: dict[str, Any], options: FastVOptions) -> Drop | None:
        """Score in layer K - 1, drop before layer K."""
        if view.index < _layer(options, view.depth):
            memory["scores"] = [last_attention(view, b) for b in range(len(view.visual))]
            return None
        rows = zip(view.visual, memory["scores"], view.counts, strict=True)
        return Drop([top(slots, scores, count) for slots, scores, count in rows])


def _layer(options: FastVOptions, depth: int) -> int:
    return scaled_layers([options.layer], depth)[0]
