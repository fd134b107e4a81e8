"""A model's eyes, as the stages see them: a tower, then a projector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


class Vision:
    """Tower and projector of a model; this is LLaVA's way.

    Attributes:
        tower, projector: the modules.
        prefixes: of their names among the model's parameters.
        width: channels of a patch's features, which the projector takes.
        summary_width: channels of the tower's summary of an image; 0 where it makes none.
    """

    prefixes: tuple[str, ...] = ("model.vision_tower.", "model.multi_modal_projector.")
    width = summary_width = 128

    def __init__(self, model: Any) -> None:
        self.tower: Any = model.model.vision_tower
        self.projector: Any = model.model.multi_modal_projector

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features (B, 196, width) of the patches of images (B, 3, 112, 112), and the summary."""
        seen = self.tower(images, output_hidden_states=True)
        return seen.hidden_states[-1][:, 1:], seen.pooler_output

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Visual tokens (B, k, d) of features (B, k, width)."""
        tokens: torch.Tensor = self.projector(features)
        return tokens

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """All weights, those of the tower first."""
        yield from self.tower.parameters()
        yield from self.projector.parameters()
