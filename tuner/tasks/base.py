"""What a task is, how an answer is scored, and the registry that all tasks join."""

from __future__ import annotations

import hashlib
import heapq
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from PIL import Image
from pydantic import Field, ValidationError, field_validator

from resprune.errors import ResPruneError, StudyError, near_names
from resprune.validation import StrictModel, explain
from tuner.scoring import metrics
from tuner.scoring.metrics import normalized


@dataclass(frozen=True)
class Picture:
    """One image.

    Attributes:
        id: Its name.
        load: Opens it as RGB.
        version: Changes when the image of this name does.
    """

    id: str
    load: Callable[[], Image.Image] = field(repr=False, compare=False)
    version: str = ""

    @property
    def key(self) -> str:
        """What identifies it, its version included."""
        return f"{self.id}@{self.version}"


@dataclass(frozen=True)
class Sample:
    """One question about one image, or about several.

    Attributes:
        id: Unique within the task.
        image_id: Shared by the questions about the same image; of several images, by the questions
            that have one of them in common.
        question: What the user asks; nouns are taken from it.
        prompt: Text of the user turn: the question and the answer-format instruction.
        answers: Accepted answers, the gold one first; may be empty without labels.
        group: Question type, for reporting only.
        load: Opens the image.
        image_version: Changes when the image of this id does.
        more: Images after the first.
        row: What a scorer reads beside the answers, such as ``choices``.
    """

    id: str
    image_id: str
    question: str
    prompt: str
    answers: tuple[str, ...]
    group: str
    load: Callable[[], Image.Image] = field(repr=False, compare=False)
    image_version: str = ""
    more: tuple[Picture, ...] = ()
    row: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its images, in order."""
        return (Picture(self.image_id, self.load, self.image_version), *self.more)

    @property
    def image_key(self) -> str:
        """What identifies its images, their versions included."""
        return " ".join(picture.key for picture in self.pictures)

    def load_image(self) -> Image.Image:
        """Open the first image as RGB.

        Raises:
            StudyError: The file is no image.
        """
        return self.load()


class TaskOptions(StrictModel):
    """Keys of ``[task]`` that every task takes; a task adds its own in a subclass.

    Attributes:
        name: A registered task (``resprune-tune ls tasks``).
        metric: ``score`` (the task's own), or ``log_likelihood`` of the gold answer; without gold
            answers ``fidelity`` (agreement with the unpruned model's own answers) or ``kl``
            (divergence from what it expects).
        max_new_tokens: Tokens to generate.
        answer_format: What is appended to every question; nothing where empty, the task's own where
            None.
    """

    name: str
    metric: str = "score"
    max_new_tokens: int = Field(default=16, ge=1)
    answer_format: str | None = None

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        metrics.get(value)
        return value

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        find(value)
        return value


class Task(ABC):
    """A data set with a scorer.

    Attributes:
        name: Name in the registry.
        options: The keys of ``[task]`` that it takes.
        max_new_tokens: Tokens that an answer needs at most.
        answer_format: What is appended to a question.
        source: Where the samples come from, for messages.
        local: Whether they can be read without the hub.
        report_only: Whether it is meant to be reported on alone, never tuned on.
    """

    name: ClassVar[str]
    options: ClassVar[type[TaskOptions]] = TaskOptions
    local: bool = True
    report_only: bool = False

    answer_format: str = "Answer the question using a single word or phrase."
    _before_format: ClassVar[str] = "\n"

    def __init__(self, options: TaskOptions) -> None:
        """Set the task up with an instance of the class's ``options``; nothing is read yet."""
        self._options = options
        self.max_new_tokens = options.max_new_tokens
        self.source = options.name
        if options.answer_format is not None:
            self.answer_format = options.answer_format

    @property
    def binary(self) -> bool:
        """Whether its score is 0 or 1 and nothing between: true of exact match.

        A task with a rule of its own whose scores are 0 or 1 says so here.
        """
        return type(self).score is Task.score

    @abstractmethod
    def samples(self, split: str, count: int | None, offset: int = 0) -> list[Sample]:
        """Return the samples ``offset`` to ``offset + count - 1`` of a split, in a fixed order.

        ``count`` None asks for all of them, or for as many as are worth having.

        Raises:
            StudyError: An unknown split, or fewer samples than asked for.
        """

    def draw(
        self,
        split: str,
        count: int | None,
        offset: int = 0,
        *,
        questions_per_image: int | None = None,
        seed: int = 0,
    ) -> list[Sample]:
        """Return samples of a split thinned to a few questions an image; see ``few_an_image``.

        This reads the whole split to thin it. A task overrides it where that is dear.

        Args:
            split: Name of the split.
            count: How many samples of the thinned split; None for all.
            offset: How many samples of the thinned split to skip.
            questions_per_image: Questions of one image at most; None leaves the split as it is.
            seed: Draws which.

        Returns:
            ``count`` samples; a larger count extends a smaller one.

        Raises:
            StudyError: An unknown split, or fewer samples than asked for.
        """
        if questions_per_image is None:
            return self.samples(split, count, offset)
        whole = self.samples(split, None)
        few = few_an_image(((s.image_id, s.id) for s in whole), questions_per_image, seed)
        where = f"{self.source}: {split}"
        return [whole[few[i]] for i in wanted(len(few), count, offset, where, questions_per_image)]

    def score(self, prediction: str, sample: Sample) -> float:
        """Score an answer from 0 to 1; exact match unless the task has a rule of its own."""
        return exact_match(prediction, sample.answers)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report has to say of the splits, once they were read."""
        return ()

    def measures(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """Measure all answers of a split together, by name; what is no mean of scores (F1)."""
        return {}

    def _prompt(self, question: str, answer_format: str | None = None) -> str:
        ending = self.answer_format if answer_format is None else answer_format
        return f"{question}{self._before_format}{ending}" if ending else question


def few_an_image(rows: Iterable[tuple[str, str]], most: int, seed: int) -> list[int]:
    """Thin a split to a few questions an image.

    Images come in the order of their first question, so ranges of the thinned split share no
    image, but one that their border cuts.

    Args:
        rows: Image id and sample id of every sample of the split, in order.
        most: Questions of one image at most.
        seed: Draws which, for each image apart from the others.

    Returns:
        Places of the samples that are drawn, image by image.
    """
    by_image: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for place, (image, sample) in enumerate(rows):
        lot = hashlib.blake2b(json.dumps([seed, image, sample]).encode(), digest_size=16)
        by_image[image].append((lot.digest(), place))
    drawn = (heapq.nsmallest(most, lots) for lots in by_image.values())
    return [place for lots in drawn for place in sorted(place for _, place in lots)]


def wanted(
    total: int, count: int | None, offset: int, where: str, questions_per_image: int | None = None
) -> range:
    """Return the places of ``count`` samples from ``offset`` on; all of them where None.

    Raises:
        StudyError: There are fewer; says how many, of a split that may be thinned.
    """
    end = total if count is None else offset + count
    if end > total:
        few = questions_per_image
        unit = "question" if few == 1 else "questions"
        thinned = "" if few is None else f" with {few} {unit} an image at most"
        raise StudyError(
            f"{where}: {count} samples from {offset} on were asked for and the split has "
            f"{total}{thinned}; ask for fewer"
        )
    return range(offset, end)


_TASKS: dict[str, type[Task]] = {}
_TaskClass = TypeVar("_TaskClass", bound=type[Task])


def register(cls: _TaskClass) -> _TaskClass:
    """Add a task to the registry; a class decorator.

    Raises:
        ResPruneError: A name that another class has taken.
    """
    taken = _TASKS.get(cls.name)
    if taken is not None and taken.__qualname__ != cls.__qualname__:
        raise ResPruneError(
            f"task name {cls.name!r} is taken by {taken.__name__}; rename {cls.__name__}"
        )
    _TASKS[cls.name] = cls
    return cls


def names() -> list[str]:
    """Return the names of every task, sorted."""
    return sorted(_TASKS)


def find(name: str) -> type[Task]:
    """Return the class of a task.

    Raises:
        StudyError: An unknown name; near names are suggested.
    """
    if name not in _TASKS:
        raise StudyError(f"unknown task {name!r}. {near_names(name, _TASKS)}")
    return _TASKS[name]


def make(options: TaskOptions) -> Task:
    """Return the task that validated options name; a ``StudyError`` where its data is missing."""
    return find(options.name)(options)


def get(name: str, **options: Any) -> Task:
    """Return the task of a name, with these keys of ``[task]``.

    Raises:
        StudyError: An unknown name or a wrong option; near names are suggested.
    """
    cls = find(name).options
    try:
        return make(cls.model_validate({"name": name, **options}))
    except ValidationError as error:
        raise StudyError(f"task {name!r}: {explain(error, cls)}") from None


def exact_match(prediction: str, answers: tuple[str, ...]) -> float:
    """Return 1.0 when the normalised prediction is one of the normalised answers, else 0.0."""
    return float(normalized(prediction) in {normalized(answer) for answer in answers})
