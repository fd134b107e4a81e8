"""The fixed vectors that the stages share: word embeddings, patch coordinates, appearance.

In stages 0 and A the word embeddings are random unit vectors that nothing trains, so that both
stages speak the same language without having met: stage 0 teaches the language model to read
sums of word vectors, and stage A teaches the vision tower to write them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from studies.nano.model import WIDTH
from studies.nano.processor import PAD, vocabulary
from studies.nano.scenes import COLOR_NAMES, GRID, PATCH_SIZE, PATCHES, PLURALS, SHAPES

BAG_SCALE = 0.71
ANCHOR_SCALE = 0.3
APPEARANCE_SIZE = 3 * (PATCH_SIZE // 2) ** 2

_words = {word: i for i, word in enumerate(vocabulary())}
SHAPE_IDS = torch.tensor([_words[s] for s in SHAPES])
PLURAL_IDS = torch.tensor([_words[PLURALS[s]] for s in SHAPES])
COLOR_IDS = torch.tensor([_words[c] for c in COLOR_NAMES])
DIGIT_IDS = torch.tensor([_words[str(d)] for d in range(10)])


@dataclass(frozen=True)
class Codebook:
    """Fixed vectors of one training seed.

    `embeddings` (V, d) unit rows, zero for padding; `coordinates` (196, d) of norm 0.4; `anchor`
    (d,) marks the patch at an object's centre, which is what makes objects countable;
    `appearance` (48, d) projects a patch's pixels at half resolution.
    """

    embeddings: torch.Tensor
    coordinates: torch.Tensor
    anchor: torch.Tensor
    appearance: torch.Tensor

    def bag(
        self, shape: torch.Tensor, color: torch.Tensor, digit: torch.Tensor, center: torch.Tensor
    ) -> torch.Tensor:
        """Sum of the word vectors of an object's patch (..., d); a negative digit means none."""
        words = self.embeddings[SHAPE_IDS[shape.clamp(min=0)]]
        words = words + self.embeddings[COLOR_IDS[color.clamp(min=0)]]
        words = words + self.embeddings[DIGIT_IDS[digit.clamp(min=0)]] * (digit >= 0)[..., None]
        return BAG_SCALE * words + ANCHOR_SCALE * self.anchor * center[..., None]

    def appearance_of(self, pixels: torch.Tensor) -> torch.Tensor:
        """Project the pixels (B, 3, 112, 112) of each patch to (B, 196, d)."""
        centred = pixels - pixels.mean((2, 3), keepdim=True)
        half = PATCH_SIZE // 2
        blocks = F.avg_pool2d(centred, 2).reshape(-1, 3, GRID, half, GRID, half)
        flat = blocks.permute(0, 2, 4, 1, 3, 5).reshape(-1, PATCHES, APPEARANCE_SIZE)
        return flat @ self.appearance


def build_codebook(seed: int, more_words: int = 0, coordinates: bool = True) -> Codebook:
    """Draw the fixed vectors of a training seed.

    Args:
        seed: the training seed.
        more_words: tokens that a model has behind those of `vocabulary`.
        coordinates: give patches their coordinates; else zeros, for a tower that has no positions
            to read them off.
    """
    generator = torch.Generator().manual_seed(seed + 77)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    embeddings = F.normalize(draw(len(_words), WIDTH), dim=-1)
    # A plural is near its singular, as in a language model that has read text.
    pairs = [*zip(SHAPE_IDS.tolist(), PLURAL_IDS.tolist(), strict=True)]
    pairs += [(_words["thing"], _words["things"]), (_words["object"], _words["objects"])]
    for one, many in pairs:
        embeddings[many] = F.normalize(0.8 * embeddings[one] + 0.6 * embeddings[many], dim=-1)
    embeddings[_words[PAD]] = 0
    anchor = F.normalize(draw(WIDTH), dim=-1)
    basis = torch.linalg.qr(draw(WIDTH, 8))[0].T
    patches = torch.arange(PATCHES)
    waves = torch.cat([_waves(patches % GRID), _waves(patches // GRID)], 1)
    appearance = draw(APPEARANCE_SIZE, WIDTH) / WIDTH**0.5
    embeddings = torch.cat([embeddings, F.normalize(draw(more_words, WIDTH), dim=-1)])
    where = (0.4 if coordinates else 0.0) * (waves / 2) @ basis
    return Codebook(embeddings, where, anchor, appearance)


def _waves(position: torch.Tensor) -> torch.Tensor:
    angles = position[:, None].float() * torch.tensor([0.22, 0.6])
    return torch.stack([angles.cos(), angles.sin()], -1).reshape(len(position), 4)
