"""Qwen3-VL: dynamic resolution, M-RoPE, and deepstack features for the LLM's first layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from resprune.backbones._qwen import QwenBackbone
from resprune.backbones.base import VisualTokens, register
from resprune.errors import ResPruneError
from resprune.prepare import Prepared

_DEEPSTACK = "deepstack"


@register
class Qwen3VLBackbone(QwenBackbone):
    """Qwen3-VL, such as ``Qwen/Qwen3-VL-8B-Instruct``.

    Its LLM adds features of earlier tower layers to the visual tokens in its first layers. They
    travel in ``VisualTokens.extras["deepstack"]``, shape (T, layers, d), and are pruned with the
    same indices; where a method gives features of its own, those of the kept tokens are used.
    """

    family = "qwen3_vl"
    model_types = ("qwen3_vl",)
    transformers_classes = ("Qwen3VLForConditionalGeneration",)
    refused: ClassVar[tuple[str, ...]] = (
        *QwenBackbone.refused,
        "images without their deepstack features",
    )

    def _extras(self, output: Any, images: int) -> list[dict[str, Tensor]]:
        layers = output.deepstack_features
        if not layers:
            return super()._extras(output, images)
        return [
            {_DEEPSTACK: torch.stack([layer[image] for layer in layers], dim=1)}
            for image in range(images)
        ]

    def prepare(
        self,
        inputs: Mapping[str, Any],
        visual: Sequence[VisualTokens],
        kept: Sequence[Tensor],
        *,
        positions: str = "keep",
        padding_side: str = "left",
        features: Sequence[Tensor | None] | None = None,
    ) -> Prepared:
        """Shorten the deepstack features too; see ``QwenBackbone.prepare``."""
        prepared = super().prepare(
            inputs,
            visual,
            kept,
            positions=positions,
            padding_side=padding_side,
            features=features,
        )
        if visual:
            prepared.kwargs["mm_encoder_outputs"]["image"] = _with_deepstack(
                prepared.kwargs["mm_encoder_outputs"]["image"].pooler_output,
                [self._deepstack(image, keep) for image, keep in zip(visual, kept, strict=True)],
            )
        return prepared

    def _deepstack(self, image: VisualTokens, keep: Tensor) -> Tensor:
        layers = len(self._tower.deepstack_visual_indexes)
        if not layers:
            return image.tokens.new_empty((len(keep), 0, self.width))
        features = image.extras.get(_DEEPSTACK)
        if features is None or features.shape[:2] != (len(image.tokens), layers):
            raise ResPruneError(
                f"{self.family}: an image comes without the {layers} deepstack features of each "
                "of its tokens; give what encode gave, extras included"
            )
        return features.index_select(0, keep.to(features.device))


def _with_deepstack(pooled: Any, deepstack: Sequence[Tensor]) -> Any:
    """Bundle features and deepstack features, layer by layer, as the model itself does."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import (
        BaseModelOutputWithDeepstackFeatures,
    )

    layers: Any = [
        [image[:, layer] for image in deepstack] for layer in range(deepstack[0].shape[1])
    ]
    return BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=layers)
