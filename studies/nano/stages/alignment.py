"""Stage A: the vision tower and the projector learn to write patches as sums of words."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from studies.nano.data import SceneArrays
from studies.nano.families import vision_of
from studies.nano.loop import Draws, Run
from studies.nano.model import WIDTH
from studies.nano.scenes import COLOR_NAMES, MAX_OBJECTS, MIXED, SHAPES
from studies.nano.words import COLOR_IDS, DIGIT_IDS, SHAPE_IDS, Codebook

LABEL_NOISE = 0.1
SHARPNESS = 12.0


class AlignmentStage:
    """Trains the vision tower, the projector and a linear head on a CLS token (dropped after)."""

    name = "alignment"

    def __init__(
        self, run: Run, model: Any, codebook: Codebook, train: SceneArrays, monitor: SceneArrays
    ) -> None:
        self.settings = run.recipe.alignment
        self._codebook = codebook
        self._train, self._monitor = train, monitor
        self._vision = vision_of(model)
        # Named 'model.*' and 'bag_head.*' in the checkpoint.
        self.module = torch.nn.ModuleDict({"model": model.model})
        if self._vision.summary_width:
            self.module["bag_head"] = torch.nn.Linear(self._vision.summary_width, WIDTH)

    def groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Vision tower, projector, and the CLS head where there is a CLS token."""
        head = self.module["bag_head"].parameters() if "bag_head" in self.module else ()
        return [([*self._vision.parameters(), *head], 1.0)]

    def loss(self, draws: Draws, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Distance to the word bags, naming of objects, and the CLS token's bag of words."""
        index = draws.integers(len(self._train), self.settings.batch).tolist()
        images, clean = self._train.images(index), self._train.targets(index)
        tokens, summary = self._encode(images)
        labels = _with_noise(clean, draws)
        shape, color, digit, _, center = labels.unbind(-1)
        is_object = shape >= 0

        bag = self._codebook.bag(shape, color, digit, center.float())
        target = torch.where(is_object[..., None], bag, 0.4 * self._codebook.appearance_of(images))
        target = target + self._codebook.coordinates
        weight = torch.where(is_object, 1.0, torch.where(shape == MIXED, 0.0, 0.25))
        weight = weight + (digit >= 0).float()
        distance = (((tokens - target) ** 2).sum(-1) * weight).sum() / weight.sum()

        naming = torch.zeros(())
        directions = SHARPNESS * F.normalize(tokens, dim=-1)
        for label, ids in ((shape, SHAPE_IDS), (color, COLOR_IDS), (digit, DIGIT_IDS)):
            known = label >= 0
            if known.any():
                logits = directions[known] @ self._codebook.embeddings[ids].T
                naming = naming + F.cross_entropy(logits, label[known])

        terms = {"distance": distance.item(), "naming": naming.item()}
        loss = distance + 0.5 * naming
        if summary is None:
            return loss, terms
        described = SHARPNESS * F.normalize(self.module["bag_head"](summary), dim=-1)
        ids = torch.cat([SHAPE_IDS, COLOR_IDS])
        present = torch.cat([_present(clean[..., 0], 8), _present(clean[..., 1], 8)], 1)
        logits = described @ self._codebook.embeddings[ids].T - 2
        bags = F.binary_cross_entropy_with_logits(logits, present)
        return loss + 0.5 * bags, {**terms, "cls": bags.item()}

    @torch.no_grad()
    def monitor(self) -> dict[str, Any]:
        """Share of object patches whose nearest shape, colour and digit word is right."""
        everything = range(len(self._monitor))
        batches = [everything[i : i + 40] for i in range(0, len(everything), 40)]
        tokens = torch.cat([self._encode(self._monitor.images(list(b)))[0] for b in batches])
        return named_right(tokens, self._monitor.targets(slice(None)), self._codebook)

    def _encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        features, summary = self._vision.encode(images)
        return self._vision.project(features), summary


def named_right(tokens: torch.Tensor, labels: torch.Tensor, codebook: Codebook) -> dict[str, Any]:
    """Nearest-word accuracy of visual tokens (B, 196, d), and the mean norms."""
    directions = F.normalize(tokens, dim=-1)
    right = {}
    parts = (("shape", SHAPE_IDS), ("color", COLOR_IDS), ("digit", DIGIT_IDS))
    for k, (name, ids) in enumerate(parts):
        known = labels[..., k] >= 0
        nearest = (directions[known] @ codebook.embeddings[ids].T).argmax(-1)
        right[name] = round((nearest == labels[..., k][known]).float().mean().item(), 3)
    norms, is_object = tokens.norm(dim=-1), labels[..., 0] >= 0
    right["object_norm"] = round(norms[is_object].mean().item(), 2)
    right["background_norm"] = round(norms[labels[..., 0] == -1].mean().item(), 2)
    share = is_object.gather(1, norms.topk(22, 1).indices).float().mean().item()
    right["objects_in_l2_top_22"] = round(share, 2)
    return right


def _with_noise(labels: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Give one object in ten a random shape, and as many a random colour, in all its patches."""
    noisy = labels.clone()
    owner = labels[..., 3].clamp(min=0)
    for k, names in ((0, SHAPES), (1, COLOR_NAMES)):
        flipped = (draws.uniform(len(labels), MAX_OBJECTS) < LABEL_NOISE).gather(1, owner)
        other = draws.integers(len(names), len(labels), MAX_OBJECTS).gather(1, owner)
        noisy[..., k] = torch.where((labels[..., k] >= 0) & flipped, other, labels[..., k])
    return noisy


def _present(labels: torch.Tensor, names: int) -> torch.Tensor:
    return torch.stack([(labels == k).any(1) for k in range(names)], 1).float()
