"""LLaVA-NeXT in vLLM: tiles, and newline tokens that are no visual tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from resprune.backbones import VisualTokens
from resprune.backbones._layout import NEWLINE, layout_of, places_of, tile_grid
from resprune.errors import ResPruneError
from resprune.serving.vllm.llava import TOWER_NAMES, TowerAttention
from resprune.serving.vllm.model import Encoded, PrunedModel
from resprune.serving.vllm.processor import PrunedProcessor
from resprune.serving.vllm.settings import named

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

    architecture = "LlavaNextForConditionalGeneration"

    def __init__(self, info: Any, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)
        self._arrangements = Arrangements(info.get_hf_config())

    def _image_token_id(self, hf_config: Any) -> int:
        return int(hf_config.image_token_index)

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


def _processor(info: Any, dummy_inputs: Any) -> Any:
    """Make the pruning processor where a config is named, else vLLM's own."""
    if named(info.get_hf_config()):
        return PrunedLlavaNextProcessor(info, dummy_inputs)
    return _OWN._processor_factory.processor(info, dummy_inputs)


@MULTIMODAL_REGISTRY.register_processor(
    _processor,
    info=_OWN._processor_factory.info,
    dummy_inputs=_OWN._processor_factory.dummy_inputs,
)
class PrunedLlavaNext(PrunedModel, LlavaNextForConditionalGeneration):
    """LLaVA-NeXT that keeps some of each image's tokens."""

    own = _OWN
    architecture = "LlavaNextForConditionalGeneration"
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
        recorder = TowerAttention(self.vision_tower, signals)
        with recorder:
            packed = _OWN.embed_multimodal(self, **inputs)
        recorded = recorder.signals()
        found = []
        counts = [len(views) for views in inputs["pixel_values"]]
        for image, rows in enumerate(packed):
            arranged = self._arrangements.of(*sizes[image].tolist())
            visual = arranged.visual.to(rows.device)
            own = {}
            for name, scores in recorded.items():
                start = sum(counts[:image])
                views = scores[start : start + arranged.views, :, None]
                ending = views.new_full((1,), NEWLINE)
                own[name] = self._arrangements.pack([views], sizes[image, None], ending)[0][:, 0][
                    visual
                ]
            tokens = VisualTokens(rows.index_select(0, visual), own, places=arranged.cells)
            found.append(Encoded(tokens, rows, arranged.visual))
        return found
