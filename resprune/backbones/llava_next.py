"""LLaVA-NeXT (LLaVA-1.6): a base view and tiles of any aspect ratio, 1-D positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from resprune.backbones._anyres import AnyresBackbone
from resprune.backbones._layout import tile_grid
from resprune.backbones.base import register
from resprune.errors import ResPruneError


@register
class LlavaNextBackbone(AnyresBackbone):
    """LLaVA-NeXT, such as ``llava-hf/llava-v1.6-vicuna-7b-hf``; see ``AnyresBackbone``."""

    family = "llava_next"
    model_types = ("llava_next",)
    image_inputs = ("pixel_values", "image_sizes")
    transformers_classes = ("LlavaNextForConditionalGeneration",)

    def _tile_counts(self, inputs: Mapping[str, Any]) -> list[int]:
        counts = []
        views = inputs["pixel_values"].shape[1]
        for image, size in enumerate(self._sizes(inputs)):
            rows, columns = tile_grid(size, self.model.config)
            counts.append(rows * columns + 1)
            if counts[-1] > views:
                raise ResPruneError(
                    f"image {image} of size {tuple(size.tolist())} takes {counts[-1]} views under "
                    f"the model's image_grid_pinpoints and pixel_values hold {views}; use the "
                    "model's own processor"
                )
        return counts

    def _pack(
        self, views: Sequence[Tensor], sizes: Tensor, newline: Tensor, *, whole: bool = False
    ) -> list[Tensor]:
        packed, _ = self.model.base_model.pack_image_features(
            views,
            sizes,
            vision_feature_select_strategy=self.model.config.vision_feature_select_strategy,
            image_newline=newline,
        )
        return list(packed)
