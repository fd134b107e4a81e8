"""Stage 0: the language model learns to answer about scenes that are given as vectors.

An object is a few visual tokens that are the sum of its words, as stage A will teach the vision
tower to write them; among them lie random vectors for clutter. Curriculum: few objects first.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from studies.nano.data import ask_about
from studies.nano.families import chat_of
from studies.nano.loop import Draws, Run
from studies.nano.model import WIDTH
from studies.nano.packing import pack, predict
from studies.nano.scenes import (
    COLOR_NAMES,
    GRID,
    MAX_OBJECTS,
    PATCHES,
    SHAPES,
    SceneObject,
    sample_objects,
)
from studies.nano.stages.scoring import answer_loss, score_by_kind
from studies.nano.words import COLOR_IDS, Codebook

_OFFSETS = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
_CENTER = _OFFSETS.index((0, 0))
_SHOWN = torch.tensor([0.4, 0.85, 0.4, 0.85, 1.0, 0.85, 0.4, 0.85, 0.4])
"""Chance that an object shows in each of its nine patches: corners seldom, the centre always."""
_SMALL, _MIDDLE, _LARGE = (2, 4), (3, 7), (4, MAX_OBJECTS)


class LanguageStage:
    """Trains the language model except its word embeddings."""

    name = "language"

    def __init__(self, run: Run, model: Any, codebook: Codebook) -> None:
        self.module = model
        self.settings = run.recipe.language
        self._run, self._codebook = run, codebook
        self._embeddings = model.model.language_model.embed_tokens.weight
        with torch.no_grad():
            self._embeddings.copy_(codebook.embeddings)

    def groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """All of the language model but the (tied) embeddings."""
        parameters = self.module.model.language_model.parameters()
        return [([p for p in parameters if p is not self._embeddings], 1.0)]

    def loss(self, draws: Draws, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of the answers about freshly drawn layouts."""
        progress, rng = step / self.settings.steps, draws.python
        objects = [
            sample_objects(rng, *_object_range(progress, rng)) for _ in range(self.settings.batch)
        ]
        if progress < 0.3:
            kept = rng.randint(14, 27)
        elif progress < 0.7:
            kept = rng.randint(20, 43)
        else:
            kept = rng.randint(12, 79)
        centers = progress < 0.5 or rng.random() < 0.8
        tokens, patches = self._draw_tokens(objects, draws, kept, centers, 0.9 * rng.random())
        questions = ask_about(objects, draws, self._run.recipe.questions)
        asked = pack(questions, chat_of(self.module))
        return answer_loss(predict(self.module, tokens, patches, asked))

    @torch.no_grad()
    def monitor(self) -> dict[str, Any]:
        """Accuracy by kind on full-sized layouts with 44 tokens."""
        draws = Draws("monitor", self.name)
        objects = [sample_objects(draws.python) for _ in range(self._run.recipe.monitor_scenes)]
        tokens, patches = self._draw_tokens(objects, draws, 44, True, 0.5)
        asked = ask_about(objects, draws, self._run.recipe.questions)
        return score_by_kind(self.module, tokens, patches, asked)

    def _draw_tokens(
        self,
        objects: Sequence[tuple[SceneObject, ...]],
        draws: Draws,
        kept: int,
        centers: bool,
        object_bias: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `kept` visual tokens (B, k, d) of each layout and their patches (B, k)."""
        batch = len(objects)
        shape, color, digit, column, row = _object_table(objects).unbind(-1)
        scene = F.normalize(draws.normal(batch, PATCHES, WIDTH), dim=-1)
        scene = scene * (draws.uniform(batch, PATCHES, 1) + 0.15)
        tinted = (draws.uniform(batch, PATCHES, 1) < 0.12).float()
        hues = COLOR_IDS[draws.integers(len(COLOR_NAMES), batch, PATCHES)]
        scene = scene + 0.5 * tinted * self._codebook.embeddings[hues]

        slots = (batch, MAX_OBJECTS, len(_OFFSETS))
        across, down = torch.tensor(_OFFSETS).unbind(-1)
        where = (row[..., None] + down) * GRID + column[..., None] + across
        shown = (shape >= 0)[..., None] & (draws.uniform(*slots) < _SHOWN)
        at_center = (torch.arange(len(_OFFSETS)) == _CENTER).expand(slots)
        written = torch.where(at_center, digit[..., None], -1)
        spread = shape[..., None].expand(slots), color[..., None].expand(slots)
        bags = self._codebook.bag(*spread, written, at_center.float())
        bags = bags * (0.7 + 0.45 * draws.uniform(*slots, 1))
        bags = bags + draws.normal(*slots, WIDTH) * (0.35 / WIDTH**0.5)

        image, _, _ = torch.where(shown)
        patch = where[shown]
        scene[image, patch] = bags[shown]
        scene = scene + self._codebook.coordinates
        chance = draws.uniform(batch, PATCHES)
        chance[image, patch] += object_bias
        if centers:
            image, _, _ = torch.where(shown & at_center)
            chance[image, where[shown & at_center]] += 1.5
        patches = chance.topk(kept, 1).indices.sort(1).values
        return scene.gather(1, patches[..., None].expand(-1, -1, WIDTH)), patches


def _object_range(progress: float, rng: random.Random) -> tuple[int, int]:
    """Fewest and most objects of a layout at this point of the curriculum."""
    if progress < 0.3:
        return _SMALL
    if progress < 0.55:
        return rng.choice((_SMALL, _MIDDLE))
    weights = (1, 1, 4) if progress < 0.8 else (0, 1, 5)
    return rng.choices((_SMALL, _MIDDLE, _LARGE), weights)[0]


def _object_table(objects: Sequence[tuple[SceneObject, ...]]) -> torch.Tensor:
    """(B, 12, 5) shape, colour, digit (-1: none), column and row; shape -1 where no object is."""
    table = torch.full((len(objects), MAX_OBJECTS, 5), -1)
    table[..., 3:] = 1
    for i, layout in enumerate(objects):
        for j, o in enumerate(layout):
            digit = -1 if o.digit is None else o.digit
            names = SHAPES.index(o.shape), COLOR_NAMES.index(o.color)
            table[i, j] = torch.tensor([*names, digit, o.column, o.row])
    return table
