"""The conformance suite's case for models with M-RoPE and packed images (the Qwen families)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resprune.testing.case import Case


@dataclass
class MropeCase(Case):
    """A case whose oracle places tokens in time, height and width.

    Positions are built from the tokens' grid one by one, by the rule of Qwen2-VL (arXiv
    2409.12191), not by the model's own code.
    """

    _deepstack: list[Tensor] = field(init=False, default_factory=list)
    _visual: Tensor = field(init=False, default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def positioned(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Leave positions to the model, which heeds the padding."""
        return dict(inputs)

    def oracle_embeddings(
        self, inputs: Mapping[str, Any], kept: Sequence[Tensor], positions: str
    ) -> tuple[Tensor, Tensor]:
        """Build one unpadded row by hand: embeddings (1, n, d) and positions (3, 1, n)."""
        output = self.model.get_image_features(
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            return_dict=True,
        )
        merge = self.model.config.vision_config.spatial_merge_size
        grids = [(int(h) // merge, int(w) // merge) for _, h, w in inputs["image_grid_thw"]]
        ids = inputs["input_ids"][0].tolist()
        embed = self.model.get_input_embeddings()
        vectors: list[Tensor] = []
        places: list[list[int]] = []
        visual: list[tuple[int, int] | None] = []
        following, place, image = 0, 0, 0
        while place < len(ids):
            if ids[place] != self.backbone.image_token_id:
                vectors.append(embed(torch.tensor(ids[place])))
                places.append([following] * 3)
                visual.append(None)
                following += 1
                place += 1
                continue
            rows, columns = grids[image]
            chosen = kept[image].tolist()
            heights, widths = list(range(rows)), list(range(columns))
            if positions == "compact":
                heights = sorted({index // columns for index in chosen})
                widths = sorted({index % columns for index in chosen})
            for index in chosen:
                row, column = heights.index(index // columns), widths.index(index % columns)
                vectors.append(output.pooler_output[image][index])
                places.append([following, following + row, following + column])
                visual.append((image, index))
            following += max(len(heights), len(widths))
            place += rows * columns
            image += 1
        self._visual = torch.tensor([spot is not None for spot in visual])
        self._deepstack = [
            torch.stack([layer[spot[0]][spot[1]] for spot in visual if spot is not None])
            for layer in getattr(output, "deepstack_features", None) or []
        ]
        return torch.stack(vectors)[None], torch.tensor(places).T[:, None]

    def oracle_logits(self, embeddings: Tensor, places: Tensor) -> Tensor:
        """Run the language model alone, with deepstack features where the family has them."""
        options: dict[str, Any] = {}
        if self._deepstack:
            visual = torch.zeros(embeddings.shape[:2], dtype=torch.bool)
            visual[0, : len(self._visual)] = self._visual
            options = {"visual_pos_masks": visual, "deepstack_visual_embeds": self._deepstack}
        hidden = self.model.base_model.language_model(
            inputs_embeds=embeddings,
            position_ids=places,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            use_cache=False,
            **options,
        ).last_hidden_state
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits

    def next_place(self, places: Tensor) -> Tensor:
        """One after the largest position of all three axes."""
        return (places.amax() + 1).expand(*places.shape[:-1], 1)
