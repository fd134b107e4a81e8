"""Questions by split. Each split owns a range of scene seeds, so no image is in two of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from resprune.errors import ResPruneError, near_names
from studies.nano.questions import generate_questions
from studies.nano.scenes import Scene, generate_scene

Split = Literal["train", "monitor", "tune", "fit", "report", "certify", "table"]
SPLITS: tuple[Split, ...] = get_args(Split)
SCENES_PER_SPLIT = 10_000_000
QUESTIONS_PER_IMAGE = 8


@dataclass(frozen=True)
class NanoQuestion:
    """One question of a split; `image_id` is shared by the questions about the same image."""

    id: str
    image_id: str
    scene_seed: int
    kind: str
    text: str
    answer: str


def scene_seed(split: Split, index: int) -> int:
    """Return the seed of the index-th scene of a split.

    Raises:
        ResPruneError: the split is unknown, or the index is outside its range.
    """
    if split not in SPLITS:
        raise ResPruneError(f"unknown split {split!r}. {near_names(split, SPLITS)}")
    if not 0 <= index < SCENES_PER_SPLIT:
        raise ResPruneError(
            f"scene {index} of split {split!r} is not from 0 to {SCENES_PER_SPLIT - 1}"
        )
    return SPLITS.index(split) * SCENES_PER_SPLIT + index


def iter_questions(
    split: Split,
    count: int,
    offset: int = 0,
    scene: Callable[[int], Scene] = generate_scene,
) -> list[NanoQuestion]:
    """Return questions `offset` to `offset + count - 1` of a split, 8 in a row to an image.

    Deterministic, and a larger count extends a smaller one; no (image, text) pair comes twice.
    `scene` draws the scene of a seed: `generate_scene` or `generate_wide_scene`.

    Raises:
        ResPruneError: the split is unknown, or count or offset is negative.
    """
    if count < 0 or offset < 0:
        raise ResPruneError(f"count {count} and offset {offset} must not be negative")
    found: list[NanoQuestion] = []
    end = offset + count
    for index in range(offset // QUESTIONS_PER_IMAGE, -(-end // QUESTIONS_PER_IMAGE)):
        seed = scene_seed(split, index)
        image_id = f"{split}-{index:06d}"
        asked = generate_questions(scene(seed), seed, QUESTIONS_PER_IMAGE)
        for number, q in enumerate(asked):
            if offset <= index * QUESTIONS_PER_IMAGE + number < end:
                name = f"{image_id}-{number}"
                found.append(NanoQuestion(name, image_id, seed, q.kind, q.text, q.answer))
    return found
