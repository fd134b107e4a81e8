"""InternVL: tiles and a thumbnail in one run of placeholders, CLS token, pixel shuffle."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from resprune.backbones._signals import ClsAttention
from resprune.backbones._towers import check_image_sizes, chosen_layer
from resprune.backbones._views import (
    check_boxes,
    pack_features,
    placeholder_runs,
    shows_frames,
    split_counts,
    tiled_boxes,
    view_places,
)
from resprune.backbones.base import Backbone, VisualTokens, check_finite, register
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.prepare import Prepared

_CLS = "cls_attention"
_FRAME = re.compile(r"Frame\s*\d+\s*:\s*<img>\s*$")


@register
class InternVLBackbone(Backbone):
    """InternVL in transformers' own format, such as ``OpenGVLab/InternVL3-1B-hf``.

    The views of one image (tiles in raster order, then the thumbnail) are selected from together;
    a run of placeholders is an image. ``cls_attention`` is each view's own, in the layer that
    ``config.vision_feature_layer`` names, mean over heads, summed over the patches that the pixel
    shuffle puts into one token.
    """

    family = "internvl"
    model_types = ("internvl",)
    image_inputs = ("pixel_values",)
    transformers_classes = ("InternVLForConditionalGeneration",)
    offered_signals = (_CLS,)
    refused = ("select strategy 'full'", "truncated views", "pixel_values without input_ids")

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        config = self.model.config
        if config.vision_feature_select_strategy != "default":
            raise UnsupportedModelError(
                f"internvl with vision_feature_select_strategy "
                f"{config.vision_feature_select_strategy!r} is not supported; set it to 'default', "
                "which leaves the CLS token out of the visual tokens"
            )
        self.seed_signals = (_CLS,)

    # -- the image ----------------------------------------------------------------------

    def encode(
        self,
        inputs: Mapping[str, Any],
        *,
        signals: Collection[str] = (),
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[VisualTokens]:
        """Run the tower and the projector once; see ``Backbone.encode``.

        ``input_ids`` are read too: they tell which views belong to one image.
        """
        self.require_signals(signals)
        lengths = self.image_lengths(inputs)
        check_image_sizes(image_sizes, len(lengths))
        if not lengths:
            return []
        recorder = self._recorder() if signals else None
        context: AbstractContextManager[Any] = nullcontext() if recorder is None else recorder
        with torch.no_grad(), context:
            output = self.model.get_image_features(
                pixel_values=inputs["pixel_values"], return_dict=True
            )
        features = split_counts(lengths, output.pooler_output.flatten(0, 1))
        check_finite(features)
        attention: Sequence[Tensor] | None = None
        if recorder is not None:
            scores = recorder.scores()
            cells = int(scores.shape[1] ** 0.5)
            units = self.model.base_model.pixel_shuffle(
                scores.view(-1, cells, cells, 1), scale_factor=self.model.config.downsample_ratio
            )
            attention = split_counts(lengths, units.sum(dim=-1).flatten())
        side = self._side(inputs["pixel_values"])
        found = []
        for image, tokens in enumerate(features):
            views = len(tokens) // side**2
            found.append(
                VisualTokens(
                    tokens=tokens,
                    signals={} if attention is None else {_CLS: attention[image]},
                    grid=(side, side) if views == 1 else (0, 0),
                    boxes=None
                    if image_sizes is None
                    else self._boxes(image_sizes[image], views, side),
                    places=view_places(views, side),
                )
            )
        return found

    def has_video(self, inputs: Mapping[str, Any]) -> bool:
        """Say whether a call has a video: its frames come as images labelled ``Frame1:``."""
        return shows_frames(inputs, self.image_token_id, self.tokenizer, _FRAME)

    def image_lengths(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return the placeholders of each image, a run of ids each."""
        pixels = inputs.get("pixel_values")
        if pixels is None or len(pixels) == 0:
            return []
        ids = inputs.get("input_ids")
        if ids is None:
            raise ResPruneError(
                "internvl: pixel_values came without input_ids, which tell the views of an image; "
                "pass the processor's output as it is"
            )
        tokens = self._side(pixels) ** 2
        runs = placeholder_runs(ids, self.image_token_id)
        for run in runs:
            if run.length % tokens:
                raise ResPruneError(
                    f"row {run.row} of input_ids has a run of {run.length} image placeholders, no "
                    f"multiple of the {tokens} visual tokens of a view; make the ids with the "
                    "model's own processor, without truncation"
                )
        shown = sum(run.length for run in runs) // tokens
        if shown != len(pixels):
            raise ResPruneError(
                f"input_ids hold placeholders of {shown} views and pixel_values {len(pixels)}; "
                "pass the images that the text names, through the model's own processor"
            )
        return [run.length for run in runs]

    def _side(self, pixels: Tensor) -> int:
        """Tokens along each edge of a view."""
        config = self.model.config
        edge = int(int(config.vision_config.patch_size[0]) / float(config.downsample_ratio))
        if pixels.ndim != 4 or pixels.shape[-1] != pixels.shape[-2] or pixels.shape[-1] % edge:
            raise ResPruneError(
                f"pixel_values have shape {tuple(pixels.shape)}; internvl takes (views, channels, "
                f"height, width) with square views whose edges {edge} divides"
            )
        return int(pixels.shape[-1]) // edge

    def _boxes(self, original: tuple[int, int], views: int, side: int) -> Tensor:
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
            get_optimal_tiled_canvas,
        )

        if views == 1:
            return tiled_boxes(original, (0, 0), side)
        processor = self.processor.image_processor
        tile = (int(processor.size["height"]), int(processor.size["width"]))
        columns, rows = get_optimal_tiled_canvas(
            (int(original[0]), int(original[1])),
            tile,
            int(processor.min_patches),
            int(processor.max_patches),
        )
        check_boxes(original, (rows, columns), views)
        return tiled_boxes(original, (rows, columns), side)

    def _recorder(self) -> ClsAttention:
        layers = self.model.base_model.vision_tower.encoder.layer
        index = chosen_layer(len(layers), self.model.config.vision_feature_layer, self.family)
        attention = layers[index].attention
        # the norms come after the projections, and are identities where the tower has none
        states = SimpleNamespace(q_proj=attention.q_norm, k_proj=attention.k_norm)
        return ClsAttention(states, attention.num_heads, attention.scale)

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
        """Turn kept indices into shorter inputs; see ``Backbone.prepare``."""
        return pack_features(
            super().prepare(
                inputs,
                visual,
                kept,
                positions=positions,
                padding_side=padding_side,
                features=features,
            )
        )
