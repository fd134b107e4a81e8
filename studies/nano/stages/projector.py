"""The projector is refitted so that clutter keeps its energy and objects some of their looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from studies.nano.data import SceneArrays, patch_features
from studies.nano.families import vision_of
from studies.nano.loop import Draws, Run
from studies.nano.scenes import MIXED
from studies.nano.stages.alignment import named_right
from studies.nano.words import Codebook

OBJECT_LOOKS, BACKGROUND_LOOKS = 0.25, 0.9


class ProjectorStage:
    """Trains the projector on cached features of the frozen tower."""

    name = "projector"

    def __init__(
        self,
        run: Run,
        model: Any,
        codebook: Codebook,
        train: SceneArrays,
        features: Any,
        monitor: SceneArrays,
    ) -> None:
        self.module, self._vision = model, vision_of(model)
        self.settings = run.recipe.projector
        self._codebook, self._train, self._features = codebook, train, features
        self._monitor = monitor

    def groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """The projector alone."""
        return [(list(self._vision.projector.parameters()), 1.0)]

    def loss(self, draws: Draws, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Squared distance to word bags plus looks for objects, to looks for background."""
        index = draws.integers(len(self._train), self.settings.batch).tolist()
        features = torch.from_numpy(self._features[index].astype(np.float32))
        tokens = self._vision.project(features)
        shape, color, digit, _, center = self._train.targets(index).unbind(-1)
        looks = self._codebook.appearance_of(self._train.images(index))
        bag = self._codebook.bag(shape, color, digit, center.float())
        target = torch.where(
            (shape >= 0)[..., None], bag + OBJECT_LOOKS * looks, BACKGROUND_LOOKS * looks
        )
        weight = (shape != MIXED).float()
        squares = ((tokens - target - self._codebook.coordinates) ** 2).sum(-1)
        return (squares * weight).sum() / weight.sum(), {}

    @torch.no_grad()
    def monitor(self) -> dict[str, Any]:
        """Nearest-word accuracy and norms, as in stage A."""
        features = patch_features(self._vision, self._monitor.images(slice(None)))
        tokens = self._vision.project(features)
        return named_right(tokens, self._monitor.targets(slice(None)), self._codebook)
