"""nano-qwen2.5-vl's eyes: a tower over patches of 4 pixels, and the merger of 2 x 2 of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from studies.nano.model import WIDTH
from studies.nano.qwen_model import MERGE, SMALL_PATCH, TOWER_WIDTH, UNIT_WIDTH, WINDOW
from studies.nano.scenes import GRID, PATCHES
from studies.nano.vision import Vision


class QwenVision(Vision):
    """The features of a token are those of its four patches, before the merger."""

    prefixes = ("model.visual.",)
    width, summary_width = UNIT_WIDTH, 0

    def __init__(self, model: Any) -> None:
        self.tower: Any = model.model.visual
        self.projector: Any = model.model.visual.merger

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features (B, 196, 256), tokens in raster order; no summary."""
        from transformers.vision_utils import get_vision_window_index

        grids = torch.tensor([[1, MERGE * GRID, MERGE * GRID]] * len(images))
        seen = self.tower(cut_patches(images), grid_thw=grids).last_hidden_state
        order, _ = get_vision_window_index(
            grids, spatial_merge_size=MERGE, window_size=WINDOW, patch_size=SMALL_PATCH
        )
        units = seen.reshape(-1, UNIT_WIDTH)[torch.argsort(order)]
        return units.reshape(len(images), PATCHES, UNIT_WIDTH), None

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Visual tokens (B, k, d) of features (B, k, 256)."""
        merged: torch.Tensor = self.projector(features.reshape(-1, TOWER_WIDTH))
        return merged.reshape(*features.shape[:-1], WIDTH)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """All weights; the merger's are among the tower's."""
        yield from self.tower.parameters()


def cut_patches(images: torch.Tensor) -> torch.Tensor:
    """Cut images (B, 3, 112, 112) as the processor does: (B * 784, 96), four patches a token."""
    batch = len(images)
    cut = images.reshape(batch, 3, GRID, MERGE, SMALL_PATCH, GRID, MERGE, SMALL_PATCH)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]
    # Both frames are the same picture.
    frames = cut.expand(*cut.shape[:6], 2, SMALL_PATCH, SMALL_PATCH)
    return frames.reshape(batch * PATCHES * MERGE**2, -1)
