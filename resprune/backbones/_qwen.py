"""What the Qwen families share: packed towers, dynamic resolution, a merger and M-RoPE."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from resprune.backbones._boxes import even_boxes
from resprune.backbones._received import ReceivedAttention
from resprune.backbones.base import Backbone, VisualTokens, check_finite
from resprune.errors import ResPruneError
from resprune.prepare import Prepared, image_rows
from resprune.prepare_mrope import given_positions, image_of_columns, shortened_positions

_RECEIVED = "received_attention"
_VIDEO_INPUTS = ("pixel_values_videos", "video_grid_thw")


class QwenBackbone(Backbone):
    """A Qwen vision-language model; a subclass names the family and its signal's layer.

    Towers without a CLS token offer ``received_attention``: what the patches of an image attend
    to in the last layer with full attention, mean over heads and queries, the patches of each
    merged token summed; it sums to one over an image. ResPrune (arXiv 2603.21105) is said to use
    ``l2_norm`` here.
    """

    image_inputs = ("pixel_values", "image_grid_thw")
    offered_signals = (_RECEIVED,)
    position_axes = "M-RoPE (t, h, w)"
    refused: ClassVar[tuple[str, ...]] = (
        "images without text between them",
        "partly masked images",
        "images of several frames",
        "videos in prepare",
    )

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self.video_token_id: int = int(self.model.config.video_token_id)
        if self._signal_block() is not None:
            self.seed_signals = (_RECEIVED,)

    @property
    def _tower(self) -> Any:
        return self.model.base_model.visual

    @property
    def _merge(self) -> int:
        return int(self.model.config.vision_config.spatial_merge_size)

    def _signal_block(self) -> int | None:
        """Index of the last block with full attention."""
        return len(self._tower.blocks) - 1

    def _in_raster_order(self, units: Tensor, grids: Tensor) -> Tensor:
        """Undo the tower's own order of merged tokens, (sum T,)."""
        return units

    # -- the image ----------------------------------------------------------------------

    def encode(
        self,
        inputs: Mapping[str, Any],
        *,
        signals: Collection[str] = (),
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[VisualTokens]:
        """Run the tower and the merger once; see ``Backbone.encode``."""
        self.require_signals(signals)
        pixels = inputs.get("pixel_values")
        if pixels is None or len(pixels) == 0:
            return []
        grids = self._grids(inputs)
        if image_sizes is not None and len(image_sizes) != len(grids):
            raise ResPruneError(
                f"image_sizes has {len(image_sizes)} entries for {len(grids)} images; give one "
                "(height, width) each"
            )
        block = self._signal_block()
        recorder = (
            ReceivedAttention(self._tower.blocks[block].attn)
            if _RECEIVED in signals and block is not None
            else None
        )
        with torch.no_grad(), recorder if recorder is not None else nullcontext():
            output = self.model.get_image_features(
                pixel_values=pixels, image_grid_thw=inputs["image_grid_thw"], return_dict=True
            )
        features: list[Tensor] = list(output.pooler_output)
        check_finite(features)
        lengths = [len(tokens) for tokens in features]
        received: Sequence[Tensor] | None = None
        if recorder is not None:
            units = recorder.scores().view(-1, self._merge**2).sum(dim=1)
            received = torch.split(self._in_raster_order(units, grids), lengths)
        extras = self._extras(output, len(features))
        found = []
        for image, tokens in enumerate(features):
            rows, columns = (int(size) // self._merge for size in grids[image, 1:])
            found.append(
                VisualTokens(
                    tokens=tokens,
                    signals={} if received is None else {_RECEIVED: received[image]},
                    grid=(rows, columns),
                    boxes=None
                    if image_sizes is None
                    else even_boxes(image_sizes[image], (rows, columns)),
                    extras=extras[image],
                )
            )
        return found

    def image_lengths(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return the placeholders of each image, from ``image_grid_thw``."""
        if inputs.get("pixel_values") is None:
            return []
        lengths: list[int] = (self._grids(inputs).prod(dim=1) // self._merge**2).tolist()
        return lengths

    def _extras(self, output: Any, images: int) -> list[dict[str, Tensor]]:
        """What else the LLM takes of each image."""
        return [{} for _ in range(images)]

    def _grids(self, inputs: Mapping[str, Any]) -> Tensor:
        """Time, height and width of each image in patches, (images, 3), on the CPU."""
        given = inputs.get("image_grid_thw")
        if given is None:
            raise ResPruneError(
                f"{self.family}: pixel_values came without image_grid_thw; pass the processor's "
                "output as it is"
            )
        grids: Tensor = given.cpu()
        if grids.ndim != 2 or grids.shape[1] != 3 or bool((grids[:, 0] != 1).any()):
            raise ResPruneError(
                f"image_grid_thw is {grids.tolist()}; give one (1, height, width) in patches an "
                "image (videos are not pruned)"
            )
        patches = len(inputs["pixel_values"])
        if int(grids.prod(dim=1).sum()) != patches:
            raise ResPruneError(
                f"image_grid_thw {grids.tolist()} stands for {int(grids.prod(dim=1).sum())} "
                f"patches and pixel_values have {patches}; pass the processor's output as it is"
            )
        return grids

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
        """Turn kept indices into shorter inputs with M-RoPE positions; see ``Backbone.prepare``.

        ``position_ids`` have the rows text, time, height, width: shape (4, B, N). Token types
        that the processor left out are derived from the ids.

        Raises:
            ResPruneError: See ``Backbone.prepare``; also a video, or two images without a token
                between them.
        """
        ids: Tensor = inputs["input_ids"]
        self._refuse_videos(inputs, ids)
        flat = {name: value for name, value in inputs.items() if name != "position_ids"}
        prepared = super().prepare(
            flat,
            visual,
            kept,
            positions=positions,
            padding_side=padding_side,
            features=features,
        )
        mask = inputs.get("attention_mask")
        present = torch.ones(ids.shape, dtype=torch.bool) if mask is None else mask.bool().cpu()
        given = inputs.get("position_ids")
        ids = ids.cpu()
        if given is not None:
            original = given_positions(given, present)
        else:
            original = self._original_positions(ids, present, visual, inputs)
        lengths = [len(image.tokens) for image in visual]
        placed = shortened_positions(
            original,
            present,
            prepared.kept_positions,
            image_of_columns(ids, lengths, self.image_token_id, prepared.kept_positions),
            prepared.kwargs["attention_mask"].bool(),
            compact=positions == "compact",
        )
        prepared.kwargs["position_ids"] = placed.position_ids
        prepared.next_positions = placed.next_positions
        return prepared

    def before_call(self, prepared: Prepared) -> None:
        """Tell the model where decoding goes on, for loops that pass a cache and no positions."""
        offsets = prepared.next_positions - torch.tensor(prepared.lengths)
        device = prepared.kwargs["input_ids"].device
        # the model's own memory of the last prompt: it writes this itself when not attached
        self.model.base_model.rope_deltas = offsets[:, None].to(device)

    def _original_positions(
        self,
        ids: Tensor,
        present: Tensor,
        visual: Sequence[VisualTokens],
        inputs: Mapping[str, Any],
    ) -> Tensor:
        """Positions of the unpruned prompt, by the model's own rule: (3, B, S), on the CPU."""
        for image, encoded in enumerate(visual):
            rows, columns = encoded.grid
            if rows * columns != len(encoded.tokens):
                raise ResPruneError(
                    f"image {image} has {len(encoded.tokens)} visual tokens and the grid "
                    f"{encoded.grid}; give what encode gave"
                )
        lengths = [len(image.tokens) for image in visual]
        given = inputs.get("mm_token_type_ids")
        types = (ids == self.image_token_id).long() if given is None else given.long().cpu()
        self._check_runs(types, present, image_rows(ids, lengths, self.image_token_id), lengths)
        grids = [
            [1, height * self._merge, width * self._merge]
            for height, width in (image.grid for image in visual)
        ]
        original, _ = self.model.base_model.get_rope_index(
            ids,
            mm_token_type_ids=types,
            image_grid_thw=torch.tensor(grids, dtype=torch.long).view(-1, 3),
            attention_mask=present.long(),
        )
        result: Tensor = original
        return result

    def _check_runs(
        self, types: Tensor, present: Tensor, rows: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Check that each image is a run of its own, as the model's positions need."""
        for row, (kind, there) in enumerate(zip(types, present, strict=True)):
            runs = [
                len(list(run))
                for image, run in itertools.groupby((kind[there] == 1).tolist())
                if image
            ]
            expected = [lengths[image] for image, place in enumerate(rows) if place == row]
            if runs != expected:
                raise ResPruneError(
                    f"row {row} has images of {expected} visual tokens and runs of {runs} image "
                    "placeholders; the model needs text between two images (its chat template "
                    "puts vision tokens around each), none of them masked, and token types that "
                    "fit the ids"
                )

    def _refuse_videos(self, inputs: Mapping[str, Any], ids: Tensor) -> None:
        given = [name for name in _VIDEO_INPUTS if inputs.get(name) is not None]
        if given or bool((ids == self.video_token_id).any()):
            raise ResPruneError(
                f"{self.family}: a prompt with a video cannot be shortened; call the model without "
                "prepare (an attached model passes such calls through)"
            )
