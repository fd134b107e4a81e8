"""What LLaVA-NeXT and LLaVA-OneVision share: a base view, tiles, unpadding and newline tokens."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from resprune.backbones._boxes import even_boxes
from resprune.backbones._layout import NEWLINE, Layout, layout_of, places_of, tile_grid
from resprune.backbones._signals import ClsAttention
from resprune.backbones._towers import PatchAttention, check_image_sizes, chosen_layer
from resprune.backbones.base import Backbone, VisualTokens, check_finite
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.prepare import Prepared, shorten

_CLS, _RECEIVED = "cls_attention", "received_attention"
_TOWERS = ("clip_vision_model", "siglip_vision_model")
_NEWLINES = "newlines"


class AnyresBackbone(Backbone):
    """A model that looks at a squeezed view of the whole image, and at tiles of a larger one.

    Newline tokens, which end the rows of the larger view, are no visual tokens: they are neither
    candidates nor counted, stay at full budget, and go as soon as one visual token goes.

    A tower with a CLS token offers ``cls_attention``, each tile's own; one without offers
    ``received_attention``, mean over heads and queries. Both are taken in the layer that
    ``config.vision_feature_layer`` names and pushed through the model's own packing.

    ``VisualTokens.places`` numbers tiles as in ``pixel_values``: 0 is the base view.
    """

    offered_signals = (_CLS, _RECEIVED)
    refused: ClassVar[tuple[str, ...]] = (
        "towers other than CLIP and SigLIP",
        "select strategy that does not fit the tower",
        "pixel_values without image_sizes",
    )

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        config = self.model.config
        tower = config.vision_config.model_type
        if tower not in _TOWERS:
            raise UnsupportedModelError(
                f"{self.family} with a {tower!r} vision tower is not supported; supported towers: "
                f"{', '.join(_TOWERS)}"
            )
        has_cls = tower == "clip_vision_model"
        if has_cls != (config.vision_feature_select_strategy == "default"):
            raise UnsupportedModelError(
                f"{self.family} with a {tower} and vision_feature_select_strategy "
                f"{config.vision_feature_select_strategy!r} is not supported: 'default' belongs "
                "to towers with a CLS token, 'full' to those without"
            )
        self.seed_signals = (_CLS,) if has_cls else (_RECEIVED,)

    # -- what differs between the families ----------------------------------------------

    @abstractmethod
    def _tile_counts(self, inputs: Mapping[str, Any]) -> list[int]:
        """Views of each image, the base view included."""

    @abstractmethod
    def _pack(
        self, views: Sequence[Tensor], sizes: Tensor, newline: Tensor, *, whole: bool = False
    ) -> list[Tensor]:
        """Run the model's own packing; ``whole`` leaves out what makes the canvas coarser."""

    # -- the image ----------------------------------------------------------------------

    @property
    def _side(self) -> int:
        """Cells along each edge of a view."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def encode(
        self,
        inputs: Mapping[str, Any],
        *,
        signals: Collection[str] = (),
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[VisualTokens]:
        """Run the tower and the projector once; see ``Backbone.encode``."""
        self.require_signals(signals)
        if not self._has_pixels(inputs):
            return []
        sizes, counts = self._sizes(inputs), self._tile_counts(inputs)
        check_image_sizes(image_sizes, len(sizes))
        recorder = self._recorder() if signals else None
        context: AbstractContextManager[Any] = nullcontext() if recorder is None else recorder
        with torch.no_grad(), context:
            taken = {name: inputs[name] for name in self.image_inputs if name in inputs}
            output = self.model.get_image_features(**taken, return_dict=True)
        features: list[Tensor] = list(output.pooler_output)
        check_finite(features)
        recorded: list[Tensor] | None = None
        if recorder is not None:
            views = torch.split(recorder.scores()[..., None], counts)
            recorded = self._pack(views, sizes, views[0].new_full((1,), NEWLINE))
        found = []
        for image, (rows, count) in enumerate(zip(features, counts, strict=True)):
            layout = self._layout(sizes[image], count)
            chosen = (~layout.newline).nonzero()[:, 0].to(rows.device)
            original = None if image_sizes is None else image_sizes[image]
            found.append(
                VisualTokens(
                    tokens=rows.index_select(0, chosen),
                    signals={}
                    if recorded is None
                    else {self.seed_signals[0]: recorded[image][:, 0].index_select(0, chosen)},
                    # a long thin image may have nothing but its base view once it is unpadded
                    grid=(self._side, self._side) if len(chosen) == layout.base else (0, 0),
                    boxes=None if original is None else self._boxes(layout, original),
                    extras={_NEWLINES: layout.newline.nonzero()[:, 0]},
                    places=places_of(layout, self._side),
                )
            )
        return found

    def image_lengths(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return the placeholders of each image, newline tokens included."""
        if not self._has_pixels(inputs):
            return []
        sizes, counts = self._sizes(inputs), self._tile_counts(inputs)
        return [
            len(self._layout(size, count).newline)
            for size, count in zip(sizes, counts, strict=True)
        ]

    def _has_pixels(self, inputs: Mapping[str, Any]) -> bool:
        pixels = inputs.get("pixel_values")
        return pixels is not None and len(pixels) > 0

    def _sizes(self, inputs: Mapping[str, Any]) -> Tensor:
        """Original (height, width) of each image as the processor noted it, on the CPU."""
        pixels, sizes = inputs["pixel_values"], inputs.get("image_sizes")
        if sizes is None:
            raise ResPruneError(
                f"{self.family}: pixel_values came without image_sizes; pass the processor's "
                "output as it is"
            )
        sizes = torch.as_tensor(sizes).cpu()
        if pixels.ndim != 5 or sizes.shape != (len(pixels), 2):
            raise ResPruneError(
                f"{self.family} takes pixel_values (images, views, channels, height, width) and "
                f"image_sizes (images, 2); they have shapes {tuple(pixels.shape)} and "
                f"{tuple(sizes.shape)}"
            )
        edge = int(self.model.config.vision_config.image_size)
        if tuple(pixels.shape[-2:]) != (edge, edge):
            raise ResPruneError(
                f"views of pixel_values have {tuple(pixels.shape[-2:])} pixels and the vision "
                f"tower takes {(edge, edge)}; use the model's own processor"
            )
        if bool((sizes < 1).any()):
            raise ResPruneError(f"image_sizes {sizes.tolist()} hold an empty image")
        return sizes

    def _layout(self, size: Tensor, views: int) -> Layout:
        tiles = tile_grid(size, self.model.config) if views > 1 else (0, 0)
        return layout_of(self._pack, size, self._side, tiles)

    def _boxes(self, layout: Layout, original: tuple[int, int]) -> Tensor:
        """Undo what the processor did: fit into the canvas, pad in the middle, cut into tiles."""
        base = even_boxes(original, (self._side, self._side))
        if layout.tiles == (0, 0):
            return base
        edge = int(self.model.config.vision_config.image_size)
        canvas = (layout.tiles[0] * edge, layout.tiles[1] * edge)
        fitted = _fitted(original, canvas)
        spans = []
        for axis in (1, 0):
            centre, half = layout.centres[layout.base :, axis], layout.extent[axis] / 2
            before = (canvas[axis] - fitted[axis]) // 2
            factor = original[axis] / fitted[axis]
            pixels = edge / self._side
            spans.append([((centre + side * half) * pixels - before) * factor for side in (-1, 1)])
        (x0, x1), (y0, y1) = spans
        return torch.cat([base, torch.stack([x0, y0, x1, y1], dim=1)])

    def _recorder(self) -> ClsAttention | PatchAttention:
        tower = self.model.base_model.vision_tower
        layers = getattr(tower, "vision_model", tower).encoder.layers
        index = chosen_layer(len(layers), self.model.config.vision_feature_layer, self.family)
        attention = layers[index].self_attn
        if self.seed_signals == (_CLS,):
            return ClsAttention(attention, attention.num_heads, attention.scale)
        return PatchAttention(
            attention.q_proj, attention.k_proj, attention.num_heads, attention.scale
        )

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

        An image that keeps all its visual tokens keeps its newline tokens too; one that loses a
        visual token loses them all.
        """
        if len(kept) != len(visual):
            raise ResPruneError(
                f"kept has {len(kept)} entries for {len(visual)} images; give one each"
            )
        given = features if features is not None else [None] * len(visual)
        held, rows = [], []
        for image, (encoded, keep, new) in enumerate(zip(visual, kept, given, strict=True)):
            newlines = encoded.extras.get(_NEWLINES)
            if newlines is None:
                raise ResPruneError(
                    f"image {image} comes without the places of its newline tokens; give what "
                    "encode gave, extras included"
                )
            placeholders, taken = self._with_newlines(encoded.tokens, newlines.cpu(), keep, new)
            held.append(placeholders)
            rows.append(taken)
        prepared = shorten(
            inputs,
            [
                image.tokens.new_empty((len(image.tokens) + len(image.extras[_NEWLINES]), 0))
                for image in visual
            ],
            held,
            image_token_id=self.image_token_id,
            pad_token_id=self.pad_token_id,
            positions=positions,
            padding_side=padding_side,
            features=rows,
        )
        return replace(prepared, newlines=self._newlines(prepared.kwargs, visual, held))

    def _newlines(
        self, kwargs: Mapping[str, Any], visual: Sequence[VisualTokens], held: Sequence[Tensor]
    ) -> Tensor:
        """Mark the newline tokens of a shortened batch, those of images that keep everything."""
        flags = [
            torch.isin(places, image.extras[_NEWLINES].cpu())
            for image, places in zip(visual, held, strict=True)
        ]
        marked: Tensor = (kwargs["input_ids"] == self.image_token_id).cpu()
        return marked.masked_scatter(marked, torch.cat(flags)) if flags else marked

    def _with_newlines(
        self, tokens: Tensor, newlines: Tensor, keep: Tensor, new: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Kept placeholders of an image, and their features."""
        total = len(tokens) + len(newlines)
        visual = torch.ones(total, dtype=torch.bool)
        visual[newlines] = False
        places = visual.nonzero()[:, 0]
        index = keep.detach().cpu()
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(places):
            raise ResPruneError(
                f"kept indices reach from {int(index.min())} to {int(index.max())}; the image has "
                f"{len(places)} visual tokens"
            )
        if new is not None and len(new) != len(index):
            raise ResPruneError(f"features have {len(new)} rows for {len(index)} kept tokens")
        rows = tokens.index_select(0, keep.to(tokens.device)) if new is None else new
        if len(index) < len(places) or not torch.equal(index, torch.arange(len(places))):
            return places[index], rows
        line = self.model.base_model.image_newline.detach().to(rows.device, rows.dtype)
        filled = line.expand(total, -1).clone()
        filled[visual.to(rows.device)] = rows
        return torch.arange(total), filled


def _fitted(original: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image fitted into a canvas, as the processors round them."""
    height, width = original
    tall, wide = canvas
    if wide / width < tall / height:
        return min(math.ceil(height * (wide / width)), tall), wide
    return tall, min(math.ceil(width * (tall / height)), wide)
