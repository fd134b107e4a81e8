"""LLaVA-NeXT in vLLM: tiles, and newline tokens that are no visual tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
)

from resprune.backbones import VisualTokens
from resprune.backbones._layout import NEWLINE, layout_of, places_of, tile_grid
from resprune.errors import ResPruneError
from resprune.serving.vllm.attention import recording
from resprune.serving.vllm.llava import TOWER_NAMES, attention_of, tower_signals
from resprune.serving.vllm.model import Encoded, PrunedModel, stands_for
from resprune.serving.vllm.processor import PrunedProcessor

_OWN = LlavaNextForConditionalGeneration
_SIZES = 256  # original sizes whose layout is remembered


@dataclass(frozen=True)
class Arrangement:
    """Where the visual tokens of an image of one size lie.

    Attributes:
        visual: Their places among the placeholders, shape (T,).
        cells: Tile, row and column of each, shape (T, 3).
        placeholders: How many placeholders there are, newline tokens included.
        views: Views of the image, the base view included.
    """

    visual: Tensor
    cells: Tensor
    placeholders: int
    views: int


class Arrangements:
    """Finds arrangements by the packing of transformers, which vLLM's follows.

    Args:
        config: The model's config.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self.of = lru_cache(_SIZES)(self._of)

    def _of(self, height: int, width: int) -> Arrangement:
        size = torch.tensor([height, width])
        vision = self._config.vision_config
        side = int(vision.image_size // vision.patch_size)
        tiles = tile_grid(size, self._config)
        layout = layout_of(self.pack, size, side, tiles)
        visual = (~layout.newline).nonzero()[:, 0]
        views = tiles[0] * tiles[1] + 1
        return Arrangement(visual, places_of(layout, side), len(layout.newline), views)

    def pack(
        self, views: Sequence[Tensor], sizes: Tensor, newline: Tensor, *, whole: bool = False
    ) -> list[Tensor]:
        """Pack the views of each image; see ``resprune.backbones._layout.Pack``."""
        model: Any = LlavaNextModel  # of which the packing reads the config alone
        packed, _ = model.pack_image_features(
            SimpleNamespace(config=self._config),
            views,
            sizes,
            vision_feature_select_strategy=self._config.vision_feature_select_strategy,
            image_newline=newline,
        )
        return list(packed)


class PrunedLlavaNextProcessor(PrunedProcessor, LlavaNextMultiModalProcessor):
    """LLaVA-NeXT's processor."""

    def __init__(self, info: Any, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)
        self._arrangements = Arrangements(info.get_hf_config())

    def visual_tokens(self, placeholders: int, item: int, items: Any) -> int:
        """Return the placeholders less the newline tokens."""
        size = items["image"].get_image_size(item)
        found = self._arrangements.of(size.height, size.width)
        if found.placeholders != placeholders:
            raise ResPruneError(
                f"an image of {size.width} x {size.height} pixels has {placeholders} placeholders "
                f"in vLLM and {found.placeholders} in transformers; report it with both versions"
            )
        return len(found.visual)


@stands_for(_OWN, PrunedLlavaNextProcessor)
class PrunedLlavaNext(PrunedModel, LlavaNextForConditionalGeneration):
    """LLaVA-NeXT that keeps some of each image's tokens."""

    hf_to_vllm_mapper = _OWN.hf_to_vllm_mapper | TOWER_NAMES

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._arrangements = Arrangements(self.config)

    def counts(self, inputs: dict[str, Any]) -> list[int]:
        """Return the placeholders of each image."""
        sizes = inputs["image_sizes"].view(-1, 2).tolist()
        return [self._arrangements.of(*size).placeholders for size in sizes]

    def encode(self, inputs: dict[str, Any], signals: Collection[str]) -> list[Encoded]:
        """Run the tower and the projector once, and push the signal through the packing."""
        sizes = inputs["image_sizes"].view(-1, 2).cpu()
        with recording(attention_of(self.vision_tower).attn, signals) as seen:
            packed = _OWN.embed_multimodal(self, **inputs)
        recorded = tower_signals(attention_of(self.vision_tower), seen, signals)
        starts = accumulate((len(views) for views in inputs["pixel_values"]), initial=0)
        found = []
        for rows, size, start in zip(packed, sizes, starts, strict=False):
            arranged = self._arrangements.of(*size.tolist())
            visual = arranged.visual.to(rows.device)
            own = {}
            for name, scores in recorded.items():
                views = scores[start : start + arranged.views, :, None]
                ending = views.new_full((1,), NEWLINE)
                placed = self._arrangements.pack([views], size[None], ending)[0]
                own[name] = placed[:, 0].index_select(0, visual)
            tokens = VisualTokens(rows.index_select(0, visual), own, places=arranged.cells)
            found.append(Encoded(tokens, rows, arranged.visual))
        return found
