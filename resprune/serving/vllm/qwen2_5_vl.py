"""Qwen2.5-VL in vLLM: any resolution, windows, and M-RoPE positions that keep their gaps.

vLLM counts positions before an image is encoded, and lets a model that prunes count them again
(``SupportsMultiModalPruning``, made for videos). Text keeps the positions it has beside the whole
image, which follow from the image's size; those of kept tokens travel with their embeddings, in
trailing columns. So a prompt whose image lies in the prefix cache is placed right too.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)

from resprune.backbones import VisualTokens
from resprune.backbones._received import packed_scores
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.plan import Plan
from resprune.serving.vllm.attention import QueriesAndKeys, over_ranks, recording
from resprune.serving.vllm.cpu import recompute_positions
from resprune.serving.vllm.model import Encoded, PrunedModel, stands_for
from resprune.serving.vllm.processor import PrunedProcessor
from resprune.serving.vllm.settings import named

_OWN = Qwen2_5_VLForConditionalGeneration
_BASE = 256  # bfloat16 holds whole numbers up to here: a coordinate takes two columns
_COLUMNS = 4
# vLLM counts positions again where videos are pruned; so little that no video token goes
_SWITCH = 1e-17


class PrunedQwen25VLInfo(Qwen2_5_VLProcessingInfo):
    """What may be in a prompt: images alone where a pruning config is named."""

    def get_supported_mm_limits(self) -> Any:
        """Refuse videos by vLLM's own message."""
        limits = super().get_supported_mm_limits()
        return {**limits, "video": 0} if named(self.get_hf_config()) else limits


class PrunedQwen25VLProcessor(PrunedProcessor, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL's processor."""

    image_input = "image_grid_thw"

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Refuse a prompt that ends with an image: text behind it tells where the image ends."""
        if list(inputs.prompt[-1:]) == [self.info.get_hf_config().image_token_id]:
            raise ResPruneError(
                "a prompt that ends with an image is not served; end the image with "
                "<|vision_end|>, as the model's chat template does"
            )
        return super().apply(inputs, timing_ctx)

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """End the prompt that memory is measured with as real ones end."""
        inputs = super().get_dummy_inputs(*args, **kwargs)
        ending = int(self.info.get_hf_config().vision_end_token_id)
        return replace(inputs, prompt=[*inputs.prompt, ending])


@stands_for(
    _OWN,
    PrunedQwen25VLProcessor,
    info=PrunedQwen25VLInfo,
    seam=(
        "get_mrope_input_positions",
        "recompute_mrope_positions",
        "_parse_and_validate_image_input",
        "_process_image_input",
    ),
)
class PrunedQwen25VL(PrunedModel, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL that keeps some of each image's tokens, at their own positions."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        # before the model is made, which copies the switch; the runner reads it afterwards
        vllm_config.model_config.multimodal_config.video_pruning_rate = _SWITCH
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        recompute_positions()
        compiled = getattr(vllm_config.compilation_config, "compile_mm_encoder", False)
        if self.reads_attention and (compiled or self.use_data_parallel):
            raise UnsupportedModelError(
                "resprune: a seed strategy or method that reads the tower's attention is not "
                "served with compile_mm_encoder, or with mm_encoder_tp_mode 'data', where ranks "
                "have different images; leave that out, or use the seed strategy 'l2_norm'"
            )

    # -- the image ----------------------------------------------------------------------

    def counts(self, inputs: dict[str, Any]) -> list[int]:
        """Return the merged tokens of each image."""
        unit = int(self.visual.spatial_merge_unit)
        return [patches // unit for patches in self._patches(inputs)]

    def part(self, inputs: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
        """Return the inputs of some images, whose patches lie one after the other."""
        patches = self._patches(inputs)
        first, last = sum(patches[:start]), sum(patches[:stop])
        grids = inputs["image_grid_thw"].view(-1, 3)
        return {
            "pixel_values": inputs["pixel_values"][first:last],
            "image_grid_thw": grids[start:stop],
        }

    @staticmethod
    def _patches(inputs: dict[str, Any]) -> list[int]:
        found: list[int] = inputs["image_grid_thw"].view(-1, 3).prod(dim=1).tolist()
        return found

    def encode(self, inputs: dict[str, Any], signals: Collection[str]) -> list[Encoded]:
        """Run the tower and the merger once."""
        block = self.visual.blocks[max(self.visual.fullatt_block_indexes)].attn
        given = self._parse_and_validate_image_input(**inputs)
        grids = given["image_grid_thw"].tolist()
        with recording(block.attn, signals) as seen:
            features = self._process_image_input(given)
        received = self._received(seen, block, grids) if signals else [None] * len(grids)
        merge = self.visual.spatial_merge_size
        return [
            Encoded(
                VisualTokens(
                    rows,
                    {} if scores is None else {"received_attention": scores},
                    (height // merge, width // merge),
                ),
                rows,
            )
            for rows, scores, (_, height, width) in zip(features, received, grids, strict=True)
        ]

    def _received(self, seen: QueriesAndKeys, block: Any, grids: Any) -> list[Tensor]:
        """What the merged tokens of each image receive, in raster order."""
        patches = [frames * height * width for frames, height, width in grids]
        query, key = (states[0].float() for states in seen.taken(1))
        bounds = list(itertools.accumulate(patches, initial=0))
        scale = block.hidden_size_per_attention_head**-0.5
        scores = over_ranks(packed_scores(query, key, scale, bounds), block.tp_size)
        found = []
        for each, grid in zip(torch.split(scores, patches), grids, strict=True):
            units = each.view(-1, self.visual.spatial_merge_unit).sum(dim=1)
            order, _ = self.visual.get_window_index_thw(*grid)
            found.append(units[torch.argsort(order).to(units.device)])
        return found

    def entering(self, image: Encoded, plan: Plan) -> Tensor:
        """Return the kept rows, each with its row and column in trailing columns."""
        rows = super().entering(image, plan)
        columns = image.visual.grid[1]
        place = torch.stack([plan.kept // columns, plan.kept % columns], dim=1)
        digits = torch.stack([place // _BASE, place % _BASE], dim=2).flatten(1)
        return torch.cat([rows, digits.to(rows)], dim=1)

    # -- positions ----------------------------------------------------------------------

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: Any
    ) -> tuple[Tensor, int]:
        """Place text as beside whole images; kept tokens stand at their image's first position.

        Args:
            input_tokens: Ids of the prompt, N of them.
            mm_features: Its images, as vLLM has them.

        Returns:
            Time, height and width, shape (3, N); and the next position less N.
        """
        positions = torch.zeros(3, len(input_tokens), dtype=torch.long)
        at, following = 0, 0
        for feature in sorted(mm_features, key=lambda each: each.mm_position.offset):
            start, length = feature.mm_position.offset, feature.mm_position.length
            positions[:, at:start] = torch.arange(start - at) + following
            first = following + start - at
            positions[:, start : start + length] = first
            grid = feature.data["image_grid_thw"].data
            merge = self.config.vision_config.spatial_merge_size
            at, following = start + length, first + int(grid[1:].max()) // merge
        positions[:, at:] = torch.arange(len(input_tokens) - at) + following
        following += len(input_tokens) - at
        return positions, following - len(input_tokens)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Place the kept tokens of a step.

        Args:
            input_ids: Ids of the prompt, N of them.
            multimodal_embeddings: Kept rows of the step's part of each image, with their places.
            mrope_positions: Positions so far, shape (3, N).
            num_computed_tokens: Where the step begins.

        Returns:
            The rows without their places, the positions, and the next position less N.
        """
        positions = mrope_positions
        if len(multimodal_embeddings):
            positions = positions.clone()
            places = torch.cat([rows[:, -_COLUMNS:] for rows in multimodal_embeddings])
            digits = places.to(positions.device, torch.long).view(-1, 2, 2)
            place = digits[:, :, 0] * _BASE + digits[:, :, 1]  # row and column, (n, 2)
            ids = torch.as_tensor(input_ids, device=positions.device)
            image = ids == self.config.image_token_id
            columns = image.nonzero()[:, 0]
            columns = columns[columns >= num_computed_tokens][: len(place)]
            # the image begins where the text before its first placeholder ends
            text = torch.where(image, -1, torch.arange(len(ids), device=positions.device))
            before = text.cummax(0).values[columns]
            first = torch.where(before < 0, 0, positions[0, before.clamp_min(0)] + 1)
            positions[0, columns] = first
            positions[1:, columns] = first + place.T
        rows = [each[:, :-_COLUMNS] for each in multimodal_embeddings]
        return rows, positions, int(positions[0, -1]) + 1 - len(input_ids)  # it ends with text
