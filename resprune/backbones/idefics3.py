"""Idefics3 and SmolVLM: tiles in rows and columns and a whole view, each a run of placeholders."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from resprune.backbones._towers import PatchAttention, check_image_sizes
from resprune.backbones._views import (
    check_boxes,
    placeholder_runs,
    shows_frames,
    split_counts,
    tiled_boxes,
    view_places,
)
from resprune.backbones.base import Backbone, VisualTokens, check_finite, register
from resprune.errors import ResPruneError, UnsupportedModelError

_RECEIVED = "received_attention"
_WHOLE_TAG = "<global-img>"
_FRAME = re.compile(
    r"Frame\s+from\s+\d+\s*:\s*\d+\s*:\s*<fake_token_around_image>\s*<global-img>\s*$"
)
_TAGS = re.compile(r"<row_\d+_col_\d+>|<global-img>|<fake_token_around_image>")
_TILE_TAG = re.compile(r"<row_(\d+)_col_(\d+)>")


@register
class Idefics3Backbone(Backbone):
    """Idefics3 and SmolVLM, such as ``HuggingFaceM4/Idefics3-8B-Llama3``.

    The views of one image (tiles in raster order, then the whole image) are selected from together;
    the tags between them are text and stay. Which views make up an image is read from the ids,
    where ``<global-img>`` precedes the last one. ``received_attention`` is what the patches of a
    view attend to in the tower's last layer, mean over heads and queries, summed over the patches
    that the connector puts into one token.
    """

    family = "idefics3"
    model_types = ("idefics3", "smolvlm")
    image_inputs = ("pixel_values", "pixel_attention_mask")
    transformers_classes = (
        "Idefics3ForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
    )
    offered_signals = (_RECEIVED,)
    refused = ("images without their whole view", "truncated views", "views of zeros alone")

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self.seed_signals = (_RECEIVED,)
        self._whole_tag = int(self.tokenizer.convert_tokens_to_ids(_WHOLE_TAG) or 0)
        if self.tokenizer.convert_ids_to_tokens(self._whole_tag) != _WHOLE_TAG:
            raise UnsupportedModelError(
                f"{self.family}: the tokenizer has no token {_WHOLE_TAG!r}, which tells where an "
                "image ends; load the model's own processor"
            )

    # -- the prompt ---------------------------------------------------------------------

    def question(self, input_ids: Tensor, *, closed: bool = False) -> str:
        """Recover the question; see ``Backbone.question``.

        The tags between views are left out, which stand in the text where nothing follows an image.
        """
        asked = _TAGS.sub("", super().question(input_ids, closed=closed))
        return "\n".join(line for line in map(str.strip, asked.splitlines()) if line)

    # -- the image ----------------------------------------------------------------------

    def encode(
        self,
        inputs: Mapping[str, Any],
        *,
        signals: Collection[str] = (),
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[VisualTokens]:
        """Run the tower and the connector once; see ``Backbone.encode``.

        ``input_ids`` are read too: they tell which views belong to one image.
        """
        self.require_signals(signals)
        images = self._images(inputs)
        check_image_sizes(image_sizes, len(images))
        if not images:
            return []
        side = self._side(inputs["pixel_values"])
        lengths = [len(tags) * side**2 for tags in images]
        base = self.model.base_model
        attention = base.vision_model.encoder.layers[-1].self_attn
        recorder = (
            PatchAttention(attention.q_proj, attention.k_proj, attention.num_heads, attention.scale)
            if signals
            else None
        )
        context: AbstractContextManager[Any] = nullcontext() if recorder is None else recorder
        with torch.no_grad(), context:
            taken = {name: inputs[name] for name in self.image_inputs if name in inputs}
            output = self.model.get_image_features(**taken, return_dict=True)
        features = split_counts(lengths, torch.cat(list(output.pooler_output)))
        check_finite(features)
        received: Sequence[Tensor] | None = None
        if recorder is not None:
            connector = base.connector
            units = connector.pixel_shuffle(recorder.scores()[..., None], connector.scale_factor)
            received = split_counts(lengths, units.sum(dim=-1).flatten())
        found = []
        for image, tokens in enumerate(features):
            views = len(images[image])
            found.append(
                VisualTokens(
                    tokens=tokens,
                    signals={} if received is None else {_RECEIVED: received[image]},
                    grid=(side, side) if views == 1 else (0, 0),
                    boxes=None
                    if image_sizes is None
                    else self._boxes(image_sizes[image], images[image], side),
                    places=view_places(views, side),
                )
            )
        return found

    def has_video(self, inputs: Mapping[str, Any]) -> bool:
        """Say whether a call has a video: its frames come as images labelled with their time."""
        return shows_frames(inputs, self.image_token_id, self.tokenizer, _FRAME)

    def image_lengths(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return the placeholders of each image, from the ids and their tags."""
        images = self._images(inputs)
        if not images:
            return []
        tokens = self._side(inputs["pixel_values"]) ** 2
        return [len(tags) * tokens for tags in images]

    def _images(self, inputs: Mapping[str, Any]) -> list[list[int]]:
        """The ids before each view of each image, which are tags."""
        pixels = inputs.get("pixel_values")
        if pixels is None or len(pixels) == 0:
            return []
        ids = inputs.get("input_ids")
        if ids is None:
            raise ResPruneError(
                f"{self.family}: pixel_values came without input_ids, which tell the views of an "
                "image; pass the processor's output as it is"
            )
        tokens = self._side(pixels) ** 2
        ids = ids.cpu()
        images: list[list[int]] = []
        views: dict[int, int] = {}
        open_row, tags = -1, list[int]()
        for run in placeholder_runs(ids, self.image_token_id):
            if run.length != tokens:
                raise ResPruneError(
                    f"row {run.row} of input_ids has a run of {run.length} image placeholders and "
                    f"a view has {tokens} visual tokens; make the ids with the model's own "
                    "processor, without truncation"
                )
            if tags and open_row != run.row:
                break
            views[run.row] = views.get(run.row, 0) + 1
            open_row = run.row
            tags.append(int(ids[run.row, run.start - 1]) if run.start else -1)
            if tags[-1] == self._whole_tag:
                images.append(tags)
                tags = []
        if tags:
            raise ResPruneError(
                f"row {open_row} of input_ids has an image without its whole view (no "
                f"{_WHOLE_TAG} before its last placeholders); make the ids with the model's own "
                "processor, without truncation"
            )
        shown = (pixels != 0).flatten(2).any(dim=2).sum(dim=1).tolist()
        for row, count in enumerate(shown):
            if count != views.get(row, 0):
                raise ResPruneError(
                    f"row {row} has placeholders of {views.get(row, 0)} views and pixel_values of "
                    f"{count} (a view of zeros alone counts as padding); pass the images that the "
                    "text names, through the model's own processor"
                )
        return images

    def _side(self, pixels: Tensor) -> int:
        """Tokens along each edge of a view."""
        config = self.model.config
        edge = int(config.vision_config.patch_size) * int(config.scale_factor)
        if pixels.ndim != 5 or pixels.shape[-1] != pixels.shape[-2] or pixels.shape[-1] % edge:
            raise ResPruneError(
                f"pixel_values have shape {tuple(pixels.shape)}; {self.family} takes (rows, views, "
                f"channels, height, width) with square views whose edges {edge} divides"
            )
        return int(pixels.shape[-1]) // edge

    def _boxes(self, original: tuple[int, int], tags: Sequence[int], side: int) -> Tensor:
        rows, columns = 0, 0
        if len(tags) > 1:
            last = _TILE_TAG.fullmatch(str(self.tokenizer.convert_ids_to_tokens(tags[-2])))
            if last is not None:
                rows, columns = int(last[1]), int(last[2])
            else:  # a tag that is no token of its own
                processor = self.processor.image_processor
                _, rows, columns = processor.get_number_of_image_patches(*original, {})
        check_boxes(original, (rows, columns), len(tags))
        return tiled_boxes(original, (rows, columns), side)
