"""LLaVA-OneVision: a base view, tiles of any aspect ratio made coarser above a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from resprune.backbones._anyres import AnyresBackbone
from resprune.backbones._layout import tile_grid
from resprune.backbones.base import register
from resprune.errors import ResPruneError

_WHOLE = "anyres_max_1000000"  # so many tiles that nothing is made coarser


@register
class LlavaOnevisionBackbone(AnyresBackbone):
    """LLaVA-OneVision, such as ``llava-hf/llava-onevision-qwen2-7b-ov-hf``.

    A row with several images gets one view an image, without tiles, as its processor decides. Where
    the model interpolates the tiles' features down to its limit, a token's place is that of the
    cell in which its centre lies. See ``AnyresBackbone``.
    """

    family = "llava_onevision"
    model_types = ("llava_onevision",)
    image_inputs = ("pixel_values", "image_sizes", "batch_num_images")
    transformers_classes = ("LlavaOnevisionForConditionalGeneration",)
    refused: ClassVar[tuple[str, ...]] = (*AnyresBackbone.refused, "vision_aspect_ratio per call")

    def _tile_counts(self, inputs: Mapping[str, Any]) -> list[int]:
        sizes = self._sizes(inputs)
        if inputs.get("vision_aspect_ratio") is not None:
            raise ResPruneError(
                f"{self.family}: vision_aspect_ratio cannot be set per call; set it in model.config"
            )
        batch = inputs.get("batch_num_images")
        numbers = [1] * len(sizes) if batch is None else [int(number) for number in batch]
        if sum(numbers) != len(sizes):
            raise ResPruneError(
                f"batch_num_images {numbers} add up to {sum(numbers)} and there are {len(sizes)} "
                "images; pass the processor's output as it is"
            )
        counts: list[int] = []
        views = inputs["pixel_values"].shape[1]
        for number in numbers:
            for _ in range(number):
                rows, columns = tile_grid(sizes[len(counts)], self.model.config)
                counts.append(rows * columns + 1 if number == 1 else 1)
                if counts[-1] > views:
                    raise ResPruneError(
                        f"image {len(counts) - 1} takes {counts[-1]} views under the model's "
                        f"image_grid_pinpoints and pixel_values hold {views}; use the model's own "
                        "processor"
                    )
        return counts

    def _pack(
        self, views: Sequence[Tensor], sizes: Tensor, newline: Tensor, *, whole: bool = False
    ) -> list[Tensor]:
        packed, _ = self.model.base_model.pack_image_features(
            views,
            sizes,
            image_newline=newline,
            vision_aspect_ratio=_WHOLE if whole else self.model.config.vision_aspect_ratio,
        )
        return list(packed)
