"""Stage B: visual instruction tuning, the vision tower frozen.

A fifth of the steps shows all visual tokens; the others keep a random 6 to 60 % of them, most of
the time in favour of object patches (by the ground-truth masks). No step selects by ResPrune or by
any other method that is compared later.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from studies.nano.data import SceneArrays, ask_about, patch_features
from studies.nano.families import chat_of, vision_of
from studies.nano.loop import Draws, Run
from studies.nano.packing import pack, predict
from studies.nano.scenes import PATCHES
from studies.nano.stages.scoring import answer_loss, score_by_kind

SHOW_ALL = 0.2
FAVOUR_OBJECTS, FAVOUR_DIGITS = 0.7, 0.5
LEAST_KEPT, MOST_KEPT = 0.06, 0.6
SLOW = 0.3
"""Factor on the learning rate of the projector and the word embeddings."""


class InstructionStage:
    """Trains the projector, the language model and its word embeddings."""

    name = "instruction"

    def __init__(
        self, run: Run, model: Any, train: SceneArrays, features: Any, monitor: SceneArrays
    ) -> None:
        self.module, self._vision = model, vision_of(model)
        self.settings = run.recipe.instruction
        self._run, self._train, self._features, self._monitor = run, train, features, monitor

    def groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Language model at the full rate; projector and embeddings slower."""
        language_model = self.module.model.language_model
        embeddings = language_model.embed_tokens.weight
        fast = [p for p in language_model.parameters() if p is not embeddings]
        slow = [*self._vision.projector.parameters(), embeddings]
        return [(fast, 1.0), (slow, SLOW)]

    def loss(self, draws: Draws, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of the answers, with all or some of the visual tokens."""
        index = draws.integers(len(self._train), self.settings.batch).tolist()
        features = torch.from_numpy(self._features[index].astype(np.float32))
        patches = draw_kept(self._train.targets(index), draws, LEAST_KEPT, MOST_KEPT, SHOW_ALL)
        kept = features.gather(1, patches[..., None].expand(-1, -1, features.shape[-1]))
        tokens = self._vision.project(kept)
        objects = [self._train.objects[i] for i in index]
        questions = ask_about(objects, draws, self._run.recipe.questions)
        asked = pack(questions, chat_of(self.module))
        return answer_loss(predict(self.module, tokens, patches, asked))

    @torch.no_grad()
    def monitor(self) -> dict[str, Any]:
        """Accuracy with all tokens, and overall with a random 22."""
        draws = Draws("monitor", self.name)
        features = patch_features(self._vision, self._monitor.images(slice(None)))
        tokens = self._vision.project(features)
        asked = ask_about(self._monitor.objects, draws, self._run.recipe.questions)
        count = len(tokens)
        some = draws.uniform(count, PATCHES).topk(22, 1).indices.sort(1).values
        pruned = tokens.gather(1, some[..., None].expand(-1, -1, tokens.shape[-1]))
        every = torch.arange(PATCHES).expand(count, -1)
        return {
            **score_by_kind(self.module, tokens, every, asked),
            "random_22": score_by_kind(self.module, pruned, some, asked)["monitor"],
        }


def draw_kept(
    labels: torch.Tensor, draws: Draws, least: float, most: float, show_all: float = 0.0
) -> torch.Tensor:
    """Return the visual tokens (B, k) that a training step shows, in raster order.

    Args:
        labels: (B, T, 5) as in `LABELS`.
        draws: the step's random numbers.
        least: smallest share of the tokens to keep.
        most: largest share.
        show_all: chance that all are kept.
    """
    rng, (batch, total) = draws.python, labels.shape[:2]
    if show_all and rng.random() < show_all:
        return torch.arange(total).expand(batch, -1)
    share = math.exp(rng.uniform(math.log(least), math.log(most)))
    chance = draws.uniform(batch, total)
    favour = rng.random()
    if favour < FAVOUR_OBJECTS:
        chance = chance + rng.uniform(0.2, 0.9) * (labels[..., 0] >= 0)
    if favour < FAVOUR_DIGITS:
        chance = chance + (labels[..., 2] >= 0).float()
    return chance.topk(round(share * total), 1).indices.sort(1).values
