"""LLaVA-1.5: one view an image, CLIP or SigLIP tower, 1-D positions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from resprune.backbones._boxes import view_boxes
from resprune.backbones._signals import ClsAttention
from resprune.backbones.base import Backbone, VisualTokens, check_finite, register
from resprune.errors import ResPruneError, UnsupportedModelError

_TOWERS = ("clip_vision_model", "siglip_vision_model")
_CLS = "cls_attention"


@register
class LlavaBackbone(Backbone):
    """LLaVA-1.5 and models of its layout, such as ``llava-hf/llava-1.5-7b-hf``.

    ``cls_attention`` is what the CLS token attends to in the layer that
    ``config.vision_feature_layer`` names (-2: the last but one), mean over heads, as in ResPrune,
    arXiv 2603.21105. SigLIP towers have no CLS token and offer no signal.
    """

    family = "llava"
    model_types = ("llava",)

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
        self.seed_signals = (_CLS,) if has_cls else ()
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
        recorder = self._recorder() if _CLS in signals else None
        with torch.no_grad(), recorder if recorder is not None else nullcontext():
            output = self.model.get_image_features(pixel_values=pixels, return_dict=True)
        features: list[Tensor] = list(output.pooler_output)
        check_finite(features)
        attention = recorder.scores() if recorder is not None else None
        height, width = (int(size) for size in pixels.shape[-2:])
        grid = (height // self._patch, width // self._patch)
        return [
            VisualTokens(
                tokens=tokens,
                signals={} if attention is None else {_CLS: attention[image]},
                grid=grid,
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

    def _recorder(self) -> ClsAttention:
        tower = self.model.base_model.vision_tower
        layers = getattr(tower, "vision_model", tower).encoder.layers
        attention = layers[self._layer_index(len(layers))].self_attn
        return ClsAttention(attention, attention.num_heads, attention.scale)

    def _layer_index(self, depth: int) -> int:
        """Index of the layer whose output is the chosen hidden state (the deepest of several)."""
        chosen = self.model.config.vision_feature_layer
        states = [chosen] if isinstance(chosen, int) else list(chosen)
        # hidden state 0 is the embedding; hidden state n is the output of layer n - 1
        layers = [depth + state if state < 0 else state - 1 for state in states]
        if not 0 <= max(layers) < depth:
            raise UnsupportedModelError(
                f"vision_feature_layer {chosen!r} names no attention layer of this tower of "
                f"{depth} layers; use the seed strategy 'l2_norm'"
            )
        return max(layers)

    def _check_pixels(self, pixels: Tensor, image_sizes: Sequence[tuple[int, int]] | None) -> None:
        if pixels.ndim != 4:
            raise ResPruneError(
                f"pixel_values have shape {tuple(pixels.shape)}; llava takes (images, channels, "
                "height, width)"
            )
        if image_sizes is not None and len(image_sizes) != len(pixels):
            raise ResPruneError(
                f"image_sizes has {len(image_sizes)} entries for {len(pixels)} images; give one "
                "(height, width) each"
            )
