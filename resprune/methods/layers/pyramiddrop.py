"""PyramidDrop: fewer visual tokens stage by stage (arXiv 2410.17247)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resprune.methods.base import register
from resprune.methods.layers._common import geometric, last_attention, top
from resprune.methods.layers.base import Drop, LayerMethod, LayerView, scaled_layers
from resprune.options import Options

_LAYERS = (8, 16, 24)


class PyramidDropOptions(Options):
    """It has none."""


@register
class PyramidDrop(LayerMethod[PyramidDropOptions]):
    """Drop before layers 8, 16 and 24 of 32, each time about the same share.

    What stays is what the prompt's last token attends to most in that very layer, mean over heads,
    as if nothing were dropped there. Published code keeps a half, a quarter and an eighth of the
    tokens, floored; so does this where k is an eighth.

    Source: PyramidDrop, arXiv 2410.17247.
    """

    name = "pyramiddrop"
    options = PyramidDropOptions
    published = "compact"

    def schedule(
        self, options: PyramidDropOptions, depth: int, tokens: int, k: int
    ) -> Mapping[int, int]:
        """Drop three times; an eighth by halves, floored, other counts by the share they need."""
        halves = (tokens // 2, tokens // 4, tokens // 8)
        counts = halves if k == halves[-1] else geometric(tokens, k, len(_LAYERS))
        return dict(zip(scaled_layers(_LAYERS, depth), counts, strict=True))

    def visit(
        self, view: LayerView, memory: dict[str, Any], options: PyramidDropOptions
    ) -> Drop | None:
        """Score and drop before the same layer."""
        rows = enumerate(zip(view.visual, view.counts, strict=True))
        return Drop([top(slots, last_attention(view, b), count) for b, (slots, count) in rows])
