"""Gemma 3: one pooled view an image, bidirectional attention inside it, 1-D positions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from resprune.backbones._boxes import even_boxes
from resprune.backbones._towers import PatchAttention, check_image_sizes
from resprune.backbones._views import pack_features
from resprune.backbones.base import Backbone, VisualTokens, check_finite, register
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.prepare import Prepared

_RECEIVED = "received_attention"
_TOWER = "siglip_vision_model"


@register
class Gemma3Backbone(Backbone):
    """Gemma 3 with a vision tower, such as ``google/gemma-3-4b-it``.

    Kept tokens of an image go on attending to each other in both directions. Its sliding windows
    count the tokens that are there, so after pruning they reach further back in the text. With pan
    and scan each crop is an image of its own, with a budget of its own.

    ``received_attention`` is what the patches of an image attend to in the tower's last layer, mean
    over heads and queries, summed over the patches that are pooled into one token.
    """

    family = "gemma3"
    model_types = ("gemma3",)
    image_inputs = ("pixel_values",)
    transformers_classes = ("Gemma3ForConditionalGeneration",)
    offered_signals = (_RECEIVED,)
    refused = ("towers other than SigLIP", "image_sizes under pan and scan")

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        tower = self.model.config.vision_config.model_type
        if tower != _TOWER:
            raise UnsupportedModelError(
                f"gemma3 with a {tower!r} vision tower is not supported; supported: {_TOWER}"
            )
        self.seed_signals = (_RECEIVED,)
        self.visual_tokens = self._side**2

    @property
    def _side(self) -> int:
        """Tokens along each edge of an image."""
        return int(self.model.base_model.multi_modal_projector.tokens_per_side)

    # -- the image ----------------------------------------------------------------------

    def encode(
        self,
        inputs: Mapping[str, Any],
        *,
        signals: Collection[str] = (),
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[VisualTokens]:
        """Run the tower and the projector once; see ``Backbone.encode``."""
        self.require_signals(signals)
        images = len(self.image_lengths(inputs))
        if not images:
            return []
        check_image_sizes(image_sizes, images)
        recorder = self._recorder() if signals else None
        context: AbstractContextManager[Any] = nullcontext() if recorder is None else recorder
        with torch.no_grad(), context:
            output = self.model.get_image_features(
                pixel_values=inputs["pixel_values"], return_dict=True
            )
        features: list[Tensor] = list(output.pooler_output)
        check_finite(features)
        received = None if recorder is None else self._pooled(recorder.scores())
        grid = (self._side, self._side)
        return [
            VisualTokens(
                tokens=tokens,
                signals={} if received is None else {_RECEIVED: received[image]},
                grid=grid,
                boxes=None if image_sizes is None else even_boxes(image_sizes[image], grid),
            )
            for image, tokens in enumerate(features)
        ]

    def image_lengths(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return the placeholders of each image: the same for all."""
        pixels = inputs.get("pixel_values")
        if pixels is None or len(pixels) == 0:
            return []
        edge = int(self.model.config.vision_config.image_size)
        if pixels.ndim != 4 or tuple(pixels.shape[-2:]) != (edge, edge):
            raise ResPruneError(
                f"pixel_values have shape {tuple(pixels.shape)}; gemma3 takes (images, channels, "
                f"{edge}, {edge}): use the model's own processor"
            )
        return [self._side**2] * len(pixels)

    def _recorder(self) -> PatchAttention:
        tower = self.model.base_model.vision_tower
        attention = getattr(tower, "vision_model", tower).encoder.layers[-1].self_attn
        return PatchAttention(
            attention.q_proj, attention.k_proj, attention.num_heads, attention.scale
        )

    def _pooled(self, scores: Tensor) -> Tensor:
        """Sum the scores of the patches that make up a token: (n, patches) -> (n, T)."""
        projector = self.model.base_model.multi_modal_projector
        cells = int(projector.patches_per_image)
        means = projector.avg_pool(scores.view(-1, 1, cells, cells)).flatten(1)
        total: Tensor = means * projector.kernel_size**2
        return total

    # -- model inputs -------------------------------------------------------------------

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
        """Turn kept indices into shorter inputs; see ``Backbone.prepare``.

        ``token_type_ids`` that were left out are derived from the ids, as the processor gives them:
        without them the model would attend forward only.
        """
        types = inputs.get("token_type_ids")
        if types is None:
            types = (inputs["input_ids"] == self.image_token_id).long()
        return pack_features(
            super().prepare(
                {**inputs, "token_type_ids": types},
                visual,
                kept,
                positions=positions,
                padding_side=padding_side,
                features=features,
            )
        )
