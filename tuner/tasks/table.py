"""Questions about images from a table, whatever it is read from: rows -> samples by split.

An image is read and decoded when it is asked for, and its path is followed only inside the folder
of the table.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, Field, field_validator

from resprune.errors import StudyError
from resprune.validation import StrictModel, shown
from tuner.pictures import PictureHash, edges_of, near_duplicates, picture_hash
from tuner.problems import all_of, each
from tuner.scoring import metrics
from tuner.tasks import rows as cells_
from tuner.tasks import scorers
from tuner.tasks.base import Sample, Task, TaskOptions, few_an_image, wanted
from tuner.tasks.divide import SHARES, connected, divided
from tuner.tasks.readers import Raw
from tuner.tasks.rows import Encoded
from tuner.tasks.scorers import Scorer

ALL = "all"
"""The split of a table that names none."""
_MOST_LOOKED_AT = 20_000  # pictures that are compared by their looks, two by two


def _adding_up(shares: dict[str, float]) -> dict[str, float]:
    if any(share <= 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares {shares} do not add up to 1; give positive shares that do")
    if not shares:
        raise ValueError("no shares; give one a part, such as { tune = 0.5, report = 0.5 }")
    return shares


class Divide(StrictModel):
    """How one split is divided by image into parts, which are splits then.

    Attributes:
        split: The split.
        shares: Share of its images by name of a part; they add up to 1.
        seed: Draws which images.
    """

    split: str = ALL
    shares: Annotated[dict[str, float], AfterValidator(_adding_up)] = Field(
        default_factory=lambda: dict(SHARES)
    )
    seed: int = Field(default=0, ge=0)


class TableOptions(TaskOptions):
    """Keys of every task that is read from a table.

    Attributes:
        divide: Divides one split by image into several.
    """

    divide: Divide | None = None


class ScoredOptions(TableOptions):
    """Keys of tables whose scorer the study names.

    Attributes:
        scorer: One of ``tuner.tasks.scorers.names()``.
    """

    scorer: str = "exact"

    @field_validator("scorer")
    @classmethod
    def _known_scorer(cls, value: str) -> str:
        scorers.get(value)
        return value


class Columns(StrictModel):
    """Which columns of a table hold what.

    Attributes:
        image: The image.
        question: The question.
        answers: One answer, or a list of them.
        choices: The options of the question, a list.
        image_id: Shared by the questions about the same image; a hash of the image where None.
        id: Unique within a split; the row's number where None.
        group: Question type, for reporting only.
        answer_format: Appended to the question of this row alone.
    """

    image: str = "image"
    question: str = "question"
    answers: str = "answers"
    choices: str | None = None
    image_id: str | None = None
    id: str | None = None
    group: str | None = None
    answer_format: str | None = None


class Asked(NamedTuple):
    """What a row asks.

    Attributes:
        question: The question alone.
        prompt: The text of the user turn.
        answers: Gold answers, the best first.
        group: Question type.
        row: What the scorer reads beside them.
    """

    question: str
    prompt: str
    answers: tuple[str, ...]
    group: str
    row: Mapping[str, Any]


class Table(Task):
    """Makes samples of rows; a subclass finds the rows, and may read them in its own way.

    Attributes:
        division: How a split is divided where the study does not say.
    """

    options: ClassVar[type[TableOptions]] = TableOptions
    division: Divide | None = None
    _folder: Path | None = None
    _options: TableOptions
    _scorer: Scorer = scorers.get("exact")

    def __init__(self, options: TableOptions) -> None:
        """Set the task up with an instance of the class's ``options``; nothing is read yet."""
        if isinstance(options, ScoredOptions):
            self._scorer = scorers.get(options.scorer)
            self.answer_format = self._scorer.answer_format
        super().__init__(options)
        if options.divide is not None:
            self.division = options.divide
        self._tables: dict[str, Raw] = {}
        self._parts: tuple[list[str], list[str]] | None = None

    # -- what a subclass says ------------------------------------------------------------

    @abstractmethod
    def _read(self, split: str) -> Raw:
        """Read a split that is there."""

    @abstractmethod
    def _columns(self, raw: Raw) -> Mapping[str, str]:
        """Say which column holds what, by the names of ``Columns``; checked to be there."""

    def _picked(self, cells: Mapping[str, Any], place: str) -> Mapping[str, Any]:
        """Return what a sample is made of, by the names of ``Columns``."""
        return cells

    def _image_cells(self, raw: Raw, row: int) -> list[Encoded]:
        """Return the images of a row."""
        column = self._columns(raw)["image"]
        return [Encoded(raw.place(row), partial(raw.image, row, column), self._folder)]

    # -- rows -> samples -----------------------------------------------------------------

    @property
    def binary(self) -> bool:
        """Whether the scorer's scores are 0 or 1."""
        return self._scorer.binary

    def score(self, prediction: str, sample: Sample) -> float:
        """Score an answer with the scorer."""
        return self._scorer.score(prediction, sample)

    def measures(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """Measure all answers with the scorer."""
        if self._scorer.measures is None:
            return {}
        return self._scorer.measures(predictions, samples)

    @property
    def metric(self) -> str:
        """Name of the metric that the study asks for."""
        return self._options.metric

    @property
    def notes(self) -> tuple[str, ...]:
        """How a split was divided, where it was."""
        if self._parts is None or self.division is None:
            return ()
        counts = {
            part: len({g for g, p in zip(*self._parts, strict=True) if p == part})
            for part in self.division.shares
        }
        shown = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        split = "The table" if self.division.split == ALL else f"Split {self.division.split!r}"
        return (
            f"{split} was divided by image with seed {self.division.seed} (images that look alike "
            f"count as one): {shown} images.",
        )

    def samples(self, split: str, count: int | None, offset: int = 0) -> list[Sample]:
        """Read rows ``offset`` to ``offset + count - 1`` of a split."""
        raw, groups = self._split(split)
        places = wanted(raw.total, count, offset, raw.where)
        return self._samples(split, raw, groups, list(places))

    def draw(
        self,
        split: str,
        count: int | None,
        offset: int = 0,
        *,
        questions_per_image: int | None = None,
        seed: int = 0,
    ) -> list[Sample]:
        """Read the ids of all rows, and the images of those that are drawn."""
        if questions_per_image is None:
            return self.samples(split, count, offset)
        raw, groups = self._split(split)
        images = groups or self._image_ids(raw)
        ids = [self._id(split, raw, i) for i in range(raw.total)]
        few = few_an_image(zip(images, ids, strict=True), questions_per_image, seed)
        places = wanted(len(few), count, offset, raw.where, questions_per_image)
        return self._samples(split, raw, groups, [few[place] for place in places])

    def sound(self, split: str) -> tuple[list[tuple[Sample, list[Encoded]]], list[str]]:
        """Read the rows of a split that can be read, whatever is wrong with others.

        Args:
            split: A split that is there, not a part of one.

        Returns:
            Samples, each with its encoded images; and what is wrong with the other rows.

        Raises:
            StudyError: The split itself cannot be read.
        """
        raw = self._table(split)
        self._columns(raw)
        found, problems = [], []
        digests: dict[str, str] = {}
        for row in range(raw.total):
            try:
                found.append((self._sample(split, raw, digests, row), self._image_cells(raw, row)))
            except StudyError as error:
                problems.append(str(error))
        return found, problems

    def home_of(self, split: str) -> str:
        """Return the split that is there of which one is a part; itself where it is none."""
        divide = self.division
        return divide.split if divide is not None and split in divide.shares else split

    def _split(self, split: str) -> tuple[Raw, list[str] | None]:
        """Find the rows of a split, and, of one that was divided, the group of each."""
        home = self.home_of(split)
        raw, divide = self._table(home), self.division
        if divide is None or home == split:
            return raw, None
        if self._parts is None:
            groups = self._groups(home)
            self._parts = groups, divided(groups, divide.shares, divide.seed)
        groups, parts = self._parts
        rows = [i for i, part in enumerate(parts) if part == split]
        if not rows:
            raise StudyError(
                f"{raw.where}: part {split!r} would be empty: the table has {len(set(groups))} "
                f"images that differ, for {len(divide.shares)} parts; add images, or leave the "
                "part out of task.divide.shares"
            )
        return raw.take(rows, f"{raw.where}, part {split}"), [groups[i] for i in rows]

    def _table(self, split: str) -> Raw:
        if split not in self._tables:
            raw = self._read(split)
            if not raw.total:
                raise StudyError(f"{raw.where}: no rows")
            self._tables[split] = raw
        return self._tables[split]

    def _groups(self, split: str) -> list[str]:
        """Return the group of each row: rows whose images are shared, or look alike.

        Raises:
            StudyError: Rows or images that cannot be used; all of them are named.
        """
        rows, problems = self.sound(split)
        pictures = {p.id: p for sample, _ in rows for p in sample.pictures}
        hashes: dict[str, PictureHash] = {}
        for name, picture in pictures.items():
            try:
                hashes[name] = picture_hash(picture.load())
            except StudyError as error:
                problems.append(str(error))
        if problems:
            raise StudyError(all_of(problems, "rows and images"))
        same: dict[str, list[str]] = {}
        for name, found in hashes.items():
            same.setdefault(found.pixels, []).append(name)
        alike = [pair for members in same.values() for pair in pairwise(members)]
        if 1 < len(hashes) <= _MOST_LOOKED_AT:
            names, edges = list(hashes), edges_of(list(hashes.values()))
            alike += [(names[i], names[j]) for i, j in near_duplicates(edges, edges) if i < j]
        return connected([[p.id for p in sample.pictures] for sample, _ in rows], alike)

    def _named(self, raw: Raw, row: int) -> list[tuple[str, Encoded]]:
        """Return the images of a row, each with its name."""
        name = self._image_id(raw, row)
        images = self._image_cells(raw, row)
        return [(name or image.path() or image.digest(), image) for image in images]

    def _image_id(self, raw: Raw, row: int) -> str | None:
        """Return the name that a row gives its image, if it gives one."""
        column = self._columns(raw).get("image_id")
        given = None if column is None else raw.cells(row).get(column)
        return cells_.label_of(given, raw.place(row), column or "image_id")

    def _image_ids(self, raw: Raw) -> list[str]:
        named = each(partial(self._named, raw), range(raw.total), "rows")
        return connected([[name for name, _ in row] for row in named], [])

    def _id(self, split: str, raw: Raw, row: int) -> str:
        column = self._columns(raw).get("id")
        given = None if column is None else raw.cells(row).get(column)
        return cells_.label_of(given, raw.place(row), column or "id") or (
            f"{split}-{raw.number(row)}"
        )

    def _samples(
        self, split: str, raw: Raw, groups: list[str] | None, places: list[int]
    ) -> list[Sample]:
        self._columns(raw)  # which are missing, once and not by row
        found = each(partial(self._sample, split, raw, {}), places, "rows")
        images = (
            connected([[p.id for p in sample.pictures] for sample in found], [])
            if groups is None
            else [groups[i] for i in places]
        )
        rows_of = defaultdict(list)
        for sample, row in zip(found, places, strict=True):
            rows_of[sample.id].append(row)
        twice = [
            f"{raw.place(rows[1])}: id {shown(name)} is used twice, first in {raw.place(rows[0])}; "
            "name ids that are unique within a split, or leave them out"
            for name, rows in rows_of.items()
            if len(rows) > 1
        ]
        if twice:
            raise StudyError(all_of(twice, "ids"))
        return [_of_image(s, image) for s, image in zip(found, images, strict=True)]

    def _sample(self, split: str, raw: Raw, digests: dict[str, str], row: int) -> Sample:
        place = raw.place(row)
        asked = self._asked(raw, row, place)
        if metrics.get(self.metric).needs_gold and not any(a.strip() for a in asked.answers):
            raise StudyError(
                f"{place}: no answer; add one, choose a split with answers, or set "
                "task.metric = 'fidelity', which needs none"
            )
        name = self._image_id(raw, row)
        pictures = [image.picture(name, digests) for image in self._image_cells(raw, row)]
        return Sample(
            id=self._id(split, raw, row),
            image_id=pictures[0].id,
            question=asked.question,
            prompt=asked.prompt,
            answers=asked.answers,
            group=asked.group,
            load=pictures[0].load,
            image_version=pictures[0].version,
            more=tuple(pictures[1:]),
            row=MappingProxyType(asked.row),
        )

    def _asked(self, raw: Raw, row: int, place: str) -> Asked:
        """Read what is asked in a row, and the answers."""
        own = raw.cells(row)
        cells = self._picked(
            {role: own[c] for role, c in self._columns(raw).items() if c in own}, place
        )
        question = self._transform(cells_.text_of(cells.get("question"), place, "question"))
        choices: tuple[str, ...] = ()
        if "choices" in cells:
            choices = cells_.choices_of(cells["choices"], place)
        given = cells.get("answers")
        if choices and self._scorer.letters and given not in (None, "", [], ()):
            answers = cells_.gold_letter(given, choices, place)
        else:
            answers = cells_.answers_of(given, place)
        if answers or choices:
            cells_.check_answers(self._scorer, answers, choices, place)
        ending = cells.get("answer_format")
        if ending:
            ending = cells_.text_of(ending, place, "answer_format")
        prompt = self._prompt(cells_.with_choices(question, choices), ending)
        group = cells_.label_of(cells.get("group"), place, "group") or "all"
        row_of = {"choices": choices} if choices else {}
        return Asked(question, prompt, answers, group, row_of)

    def _transform(self, question: str) -> str:
        return question


def _of_image(sample: Sample, image: str) -> Sample:
    return sample if sample.image_id == image else replace(sample, image_id=image)
