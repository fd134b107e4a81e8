"""Gemma 3: the conformance suite, and what is particular to the family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.tiny_tiled import tiny_tiled


@dataclass
class BothWaysCase(Case):
    """Kept tokens of an image see each other both ways, inside the window in sliding layers."""

    _image: Tensor = field(init=False, default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def oracle_embeddings(
        self, inputs: Mapping[str, Any], kept: Sequence[Tensor], positions: str
    ) -> tuple[Tensor, Tensor]:
        """Remember which image each vector belongs to, -1 for text."""
        placeholder = inputs["input_ids"][0] == self.backbone.image_token_id
        first = torch.nn.functional.pad(placeholder.long(), (1, 0)).diff() == 1
        chosen = torch.zeros(int(placeholder.sum()), dtype=torch.bool)
        offset = 0
        for keep in kept:
            chosen[offset + keep] = True
            offset += self.model.config.mm_tokens_per_image
        owner = torch.where(placeholder, first.cumsum(dim=0) - 1, -1)
        stays = ~placeholder
        stays[placeholder] = chosen
        self._image = owner[stays]
        return super().oracle_embeddings(inputs, kept, positions)

    def oracle_logits(self, embeddings: Tensor, places: Tensor) -> Tensor:
        """Run the language model with masks made by hand."""
        length = embeddings.shape[1]
        image = torch.full((length,), -1)
        image[: len(self._image)] = self._image
        query, key = torch.arange(length)[:, None], torch.arange(length)[None]
        together = (image[:, None] == image[None]) & (image[:, None] >= 0)
        seen = (key <= query) | together
        near = query - key < self.model.config.text_config.sliding_window
        lowest = torch.finfo(embeddings.dtype).min
        masks = {
            name: torch.where(allowed, 0.0, lowest).to(embeddings.dtype)[None, None]
            for name, allowed in (("full_attention", seen), ("sliding_attention", seen & near))
        }
        hidden = self.language_model()(
            inputs_embeds=embeddings, position_ids=places, attention_mask=masks, use_cache=False
        ).last_hidden_state
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return tiny_tiled("gemma3", folder=tmp_path_factory.mktemp("gemma3"))


class TestConformance(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, made: tuple[Any, Any], images: list[Image.Image]) -> Case:
        return BothWaysCase(*made, images, decodes_after_right_padding=False)
