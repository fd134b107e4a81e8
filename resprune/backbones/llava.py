"""LLaVA-1.5: one view an image, CLIP or SigLIP tower, 1-D positions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from resprune.backbones._boxes import view_boxes
from resprune.backbones._signals import ClsAttention
from resprune.backbones._towers import PatchAttention, check_image_sizes, chosen_layer
from resprune.backbones.base import Backbone, VisualTokens, check_finite, register
from resprune.errors import ResPruneError, UnsupportedModelError

_TOWERS = ("clip_vision_model", "siglip_vision_model")
_CLS, _RECEIVED = "cls_attention", "received_attention"


@register
class LlavaBackbone(Backbone):
    """LLaVA-1.5 and models of its layout, such as ``llava-hf/llava-1.5-7b-hf``.

    ``cls_attention`` is what the CLS token attends to in the layer that
    ``config.vision_feature_layer`` names (-2: the last but one), mean over heads. SigLIP towers
    have no CLS token and offer ``received_attention`` of that layer instead, mean over heads and
    queries.
    """

    family = "llava"
    model_types = ("llava",)
    transformers_classes = ("LlavaForConditionalGeneration",)
    offered_signals = (_CLS, _RECEIVED)
    refused = ("towers other than CLIP and SigLIP", "select strategy that does not fit the tower")

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        config = self.model.config
        tower = config.vision_config.model_type
        if tower not in _TOWERS:
            raise UnsupportedModelError(
                f"llava with a {tower!r} vision tower is not supported; supported towers: "
                f"{', '.join(_TOWERS)}"
            )
        has_cls = tower == "clip_vision_model"
        if has_cls != (config.vision_feature_select_strategy == "default"):
            raise UnsupportedModelError(
                f"llava with a {tower} and vision_feature_select_strategy "
                f"{config.vision_feature_select_strategy!r} is not supported: 'default' belongs "
                "to towers with a CLS token, 'full' to those without"
            )
        self.seed_signals = (_CLS,) if has_cls else (_RECEIVED,)
        self.visual_tokens = (config.vision_config.image_size // self._patch) ** 2

    @property
    def _patch(self) -> int:
        return int(self.model.config.vision_config.patch_size)

    def encode(
        self,
        inputs: Mapping[str, Any],
        *,
        signals: Collection[str] = (),
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[VisualTokens]:
        """Run the tower and the projector once; see ``Backbone.encode``."""
        self.require_signals(signals)
        pixels = inputs.get("pixel_values")
        if pixels is None or len(pixels) == 0:
            return []
        self._check_pixels(pixels, image_sizes)
        recorder = self._recorder() if signals else None
        context: AbstractContextManager[Any] = nullcontext() if recorder is None else recorder
        text = self.text_model
        embedding = nullcontext([]) if text is None else text.recording()
        with torch.no_grad(), context, embedding as embeds:
            output = self.model.get_image_features(pixel_values=pixels, return_dict=True)
        features: list[Tensor] = list(output.pooler_output)
        check_finite(features)
        attention = recorder.scores() if recorder is not None else None
        height, width = (int(size) for size in pixels.shape[-2:])
        grid = (height // self._patch, width // self._patch)
        return [
            VisualTokens(
                tokens=tokens,
                signals={} if attention is None else {self.seed_signals[0]: attention[image]},
                grid=grid,
                extras={"image_embeds": embeds[0][image]} if embeds else {},
                boxes=None
                if image_sizes is None
                else view_boxes(
                    image_sizes[image], (height, width), grid, self.processor.image_processor
                ),
            )
            for image, tokens in enumerate(features)
        ]

    def image_lengths(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return the placeholders of each image, from the size of the pixel values."""
        pixels = inputs.get("pixel_values")
        if pixels is None:
            return []
        height, width = pixels.shape[-2:]
        return [(height // self._patch) * (width // self._patch)] * len(pixels)

    def feature_layer(self) -> Any:
        """Return the tower's layer that features are taken from."""
        tower = self.model.base_model.vision_tower
        layers = getattr(tower, "vision_model", tower).encoder.layers
        return layers[chosen_layer(len(layers), self.model.config.vision_feature_layer, "llava")]

    def _recorder(self) -> ClsAttention | PatchAttention:
        attention = self.feature_layer().self_attn
        if self.seed_signals == (_CLS,):
            return ClsAttention(attention, attention.num_heads, attention.scale)
        return PatchAttention(
            attention.q_proj, attention.k_proj, attention.num_heads, attention.scale
        )

    def _check_pixels(self, pixels: Tensor, image_sizes: Sequence[tuple[int, int]] | None) -> None:
        if pixels.ndim != 4:
            raise ResPruneError(
                f"pixel_values have shape {tuple(pixels.shape)}; llava takes (images, channels, "
                "height, width)"
            )
        check_image_sizes(image_sizes, len(pixels))
