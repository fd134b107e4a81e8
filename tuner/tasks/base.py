"""What a task is: samples by split, and how an answer is scored."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Sample:
    """One question about one image.

    Attributes:
        id: Unique within the task.
        image_id: Shared by the questions about the same image.
        question: What the user asks; nouns are taken from it.
        prompt: Text of the user turn: the question and the answer-format instruction.
        answers: Accepted answers, the gold one first; may be empty under ``fidelity``.
        group: Question type, for reporting only.
        load: Opens the image.
        image_version: Changes when the image of this id does.
    """

    id: str
    image_id: str
    question: str
    prompt: str
    answers: tuple[str, ...]
    group: str
    load: Callable[[], Image.Image] = field(repr=False, compare=False)
    image_version: str = ""

    def load_image(self) -> Image.Image:
        """Open the image as RGB.

        Raises:
            StudyError: The file is no image.
        """
        return self.load()


class Task(Protocol):
    """A data set with a scorer.

    Attributes:
        name: Name in the registry.
        max_new_tokens: Tokens that an answer needs at most.
    """

    name: str
    max_new_tokens: int

    def samples(self, split: str, count: int | None, offset: int = 0) -> list[Sample]:
        """Return the samples ``offset`` to ``offset + count - 1`` of a split, in a fixed order.

        Raises:
            StudyError: An unknown split, or fewer samples than asked for.
        """
        ...

    def score(self, prediction: str, sample: Sample) -> float:
        """Score an answer from 0 to 1."""
        ...


def normalized(answer: str) -> str:
    """Lower the case, strip punctuation and white space: what exact match compares."""
    return " ".join(answer.lower().translate(_PUNCTUATION).split())


def exact_match(prediction: str, answers: tuple[str, ...]) -> float:
    """Return 1.0 when the normalised prediction is one of the normalised answers, else 0.0."""
    return float(normalized(prediction) in {normalized(answer) for answer in answers})
