"""``nano-scenes``: procedural scenes and questions of the embedded models; one word answers.

``nano-scenes-wide`` asks the same about scenes that are twice as wide or twice as high.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import ClassVar

from PIL import Image
from pydantic import Field

from resprune.errors import StudyError, near_names
from studies.nano.scenes import Scene, generate_scene, generate_wide_scene
from studies.nano.splits import QUESTIONS_PER_IMAGE, iter_questions
from tuner.tasks.base import Sample, Task, TaskOptions, few_an_image, register

_UNSEEN = ("tune", "fit", "certify", "report", "table")


class NanoOptions(TaskOptions):
    """The keys of every task; an answer is one word and the end."""

    max_new_tokens: int = Field(default=3, ge=1)


@register
class NanoScenes(Task):
    """Questions about generated scenes; every split owns a range of scene seeds of its own."""

    name = "nano-scenes"
    options = NanoOptions
    answer_format = ""
    _before_format = " "
    _wide: ClassVar[bool] = False

    def samples(self, split: str, count: int | None, offset: int = 0) -> list[Sample]:
        """Generate questions of a split; ``count`` None gives 2,000."""
        if split not in _UNSEEN:
            raise StudyError(
                f"{self.name} has no split {split!r} that the model has not seen in training. "
                f"{near_names(split, _UNSEEN)}"
            )
        wanted = 2000 if count is None else count
        draw = generate_wide_scene if self._wide else generate_scene
        return [
            Sample(
                id=question.id,
                image_id=question.image_id,
                question=question.text,
                prompt=self._prompt(question.text),
                answers=(question.answer,),
                group=question.kind,
                load=partial(_draw, draw, question.scene_seed),
                image_version="wide" if self._wide else "",
            )
            for question in iter_questions(split, wanted, offset, draw)  # type: ignore[arg-type]
        ]

    def draw(
        self,
        split: str,
        count: int | None,
        offset: int = 0,
        *,
        questions_per_image: int | None = None,
        seed: int = 0,
    ) -> list[Sample]:
        """Generate the scenes of the range alone, and draw from each scene's eight questions."""
        if questions_per_image is None:
            return self.samples(split, count, offset)
        few = min(questions_per_image, QUESTIONS_PER_IMAGE)
        end = offset + (2000 if count is None else count)
        first, last = offset // few, -(-end // few)
        asked = self.samples(
            split, (last - first) * QUESTIONS_PER_IMAGE, first * QUESTIONS_PER_IMAGE
        )
        drawn = few_an_image(((s.image_id, s.id) for s in asked), few, seed)
        return [asked[i] for i in drawn[offset - first * few : end - first * few]]


@register
class NanoScenesWide(NanoScenes):
    """The same questions about wide scenes, for a model that sees an image in tiles."""

    name = "nano-scenes-wide"
    _wide = True


@lru_cache(maxsize=64)  # several questions in a row share an image
def _draw(scene: Callable[[int], Scene], seed: int) -> Image.Image:
    return scene(seed).image
