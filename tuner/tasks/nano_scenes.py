"""``nano-scenes``: procedural scenes and questions of the embedded models; one word answers."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import get_args

from PIL import Image

from resprune.errors import StudyError, near_names
from studies.nano.scenes import generate_scene
from studies.nano.splits import Split, iter_questions
from tuner.tasks.base import Sample, exact_match


class NanoScenes:
    """Questions about generated scenes; every split owns a range of scene seeds of its own."""

    name = "nano-scenes"

    def __init__(self, answer_format: str | None = None, max_new_tokens: int | None = None) -> None:
        """Set the task up.

        Args:
            answer_format: Appended to every question; the models were trained without.
            max_new_tokens: Tokens to generate; an answer is one word and the end.
        """
        self.max_new_tokens = max_new_tokens or 3
        self._suffix = f" {answer_format}" if answer_format else ""

    def samples(self, split: str, count: int | None, offset: int = 0) -> list[Sample]:
        """Generate questions of a split; ``count`` None gives 2,000."""
        known = get_args(Split)
        if split not in known:
            raise StudyError(f"nano-scenes has no split {split!r}. {near_names(split, known)}")
        if split in ("train", "monitor"):
            raise StudyError(
                f"nano-scenes: the model has seen split {split!r} in training; use tune, fit or "
                "report"
            )
        wanted = 2000 if count is None else count
        return [
            Sample(
                id=question.id,
                image_id=question.image_id,
                question=question.text,
                prompt=question.text + self._suffix,
                answers=(question.answer,),
                group=question.kind,
                load=partial(_draw, question.scene_seed),
            )
            for question in iter_questions(split, wanted, offset)  # type: ignore[arg-type]
        ]

    def score(self, prediction: str, sample: Sample) -> float:
        """Exact match after lower-casing and stripping punctuation."""
        return exact_match(prediction, sample.answers)


@lru_cache(maxsize=64)  # several questions in a row share an image
def _draw(seed: int) -> Image.Image:
    return generate_scene(seed).image
