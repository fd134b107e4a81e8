"""Qwen2.5-VL: dynamic resolution, window attention, M-RoPE."""

from __future__ import annotations

import torch
from torch import Tensor

from resprune.backbones._qwen import QwenBackbone
from resprune.backbones.base import register


@register
class Qwen25VLBackbone(QwenBackbone):
    """Qwen2.5-VL, such as ``Qwen/Qwen2.5-VL-7B-Instruct``.

    Most of its blocks attend within windows; the tower orders merged tokens window by window
    meanwhile.
    """

    family = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)
    transformers_classes = ("Qwen2_5_VLForConditionalGeneration",)

    def _signal_block(self) -> int | None:
        depth = len(self._tower.blocks)
        full = [block for block in self._tower.fullatt_block_indexes if 0 <= block < depth]
        return max(full, default=None)

    def _in_raster_order(self, units: Tensor, grids: Tensor) -> Tensor:
        from transformers.vision_utils import get_vision_window_index

        order, _ = get_vision_window_index(
            grids,
            spatial_merge_size=self._merge,
            window_size=self._tower.window_size,
            patch_size=self._tower.patch_size,
        )
        return units[torch.argsort(order).to(units.device)]
