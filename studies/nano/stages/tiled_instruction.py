"""Stage B for images that are seen in tiles: as stage B, with a base view and newline tokens.

A fifth of the steps shows every placeholder of a few images of one canvas; the others keep a random
2 to 34 % of the visual tokens (about as many as nano-llava's stage B), and no newline token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from studies.nano.data import ask_about, patch_features
from studies.nano.families import vision_of
from studies.nano.loop import Draws, Run
from studies.nano.packing import pack, predict
from studies.nano.scenes import Scene
from studies.nano.stages.instruction import SHOW_ALL, SLOW, draw_kept
from studies.nano.stages.scoring import answer_loss, score_by_kind
from studies.nano.views import TOKENS, VIEWS, WideScenes, layout_of, place_tokens

LEAST_KEPT, MOST_KEPT = 0.02, 0.34
FULL_SHARE = 4
"""A step with all tokens shows this many times fewer images."""


class TiledInstructionStage:
    """Trains the projector, the language model, its word embeddings and the newline token."""

    name = "instruction"

    def __init__(
        self, run: Run, model: Any, train: WideScenes, features: Any, monitor: WideScenes
    ) -> None:
        self.module = model
        self.settings = run.recipe.instruction
        self._run, self._train, self._features, self._monitor = run, train, features, monitor

    def groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Language model at the full rate; projector, embeddings and newline slower."""
        inner = self.module.model
        embeddings = inner.language_model.embed_tokens.weight
        fast = [p for p in inner.language_model.parameters() if p is not embeddings]
        slow = [*inner.multi_modal_projector.parameters(), embeddings, inner.image_newline]
        return [(fast, 1.0), (slow, SLOW)]

    def loss(self, draws: Draws, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of the answers, with all or some of the visual tokens."""
        batch, count = self.settings.batch, len(self._train)
        if draws.python.random() < SHOW_ALL:
            # Scenes of one canvas have as many newline tokens as one another.
            half = draws.python.randrange(2)
            index = draws.integers(count // 2, max(1, batch // FULL_SHARE)) * 2 + half
            kept = torch.arange(TOKENS).expand(len(index), -1)
        else:
            index = draws.integers(count, batch)
            labels = self._train.targets(index.tolist())
            kept = draw_kept(labels, draws, LEAST_KEPT, MOST_KEPT)
        chosen = index.tolist()
        features = torch.from_numpy(
            np.stack([self._features[VIEWS * i : VIEWS * (i + 1)] for i in chosen])
        )
        scenes = [self._train.scenes[i] for i in chosen]
        tokens, places, ends = _show(
            self.module, features.reshape(len(chosen), TOKENS, -1).float(), scenes, kept
        )
        asked = ask_about([s.objects for s in scenes], draws, self._run.recipe.questions)
        return answer_loss(predict(self.module, tokens, places, pack(asked), ends))

    @torch.no_grad()
    def monitor(self) -> dict[str, Any]:
        """Accuracy of landscape scenes with all tokens, and of all with a random 40."""
        draws = Draws("monitor", self.name)
        vision, images = vision_of(self.module), self._monitor.views.images(slice(None))
        features = torch.cat([patch_features(vision, part) for part in torch.split(images, 60)])
        features = features.reshape(len(self._monitor), TOKENS, -1)
        asked = ask_about(
            [s.objects for s in self._monitor.scenes], draws, self._run.recipe.questions
        )
        some = draws.uniform(len(features), TOKENS).topk(40, 1).indices.sort(1).values
        every = torch.arange(TOKENS).expand(len(features), -1)

        def score(kept: torch.Tensor, part: slice) -> dict[str, Any]:
            scenes = self._monitor.scenes[part]
            placed = _show(self.module, features[part], scenes, kept[part])
            return score_by_kind(self.module, *placed[:2], asked[part], placed[2])

        landscape = slice(0, None, 2)
        return {**score(every, landscape), "random_40": score(some, slice(None))["monitor"]}


def _show(
    model: Any, features: torch.Tensor, scenes: Sequence[Scene], kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Project those of the views' features (B, 588, d) that are kept, and place them."""
    canvases = [scene.canvas for scene in scenes]
    source = torch.stack([layout_of(canvas).source for canvas in canvases]).gather(1, kept)
    chosen = features.gather(1, source[..., None].expand(-1, -1, features.shape[-1]))
    newline = model.model.image_newline
    # Zero times the newline token gives it a gradient in the steps that do not show it.
    tokens = model.model.multi_modal_projector(chosen) + 0 * newline
    return place_tokens(tokens, newline, canvases, kept)
