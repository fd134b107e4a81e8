"""The nine benchmarks of the paper's tables, as lmms-eval 0.7.3 asks and scores them.

Each is a declaration: where it lies, which columns it reads, which of its splits is divided by
image where no second one is labelled, and its ``rules``, which were checked against lmms-eval's. A
folder in place of the hub is `dataset = "FOLDER"`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

from pydantic import Field

from resprune.errors import StudyError
from tuner.paths import FolderName
from tuner.tasks import rows as cells_
from tuner.tasks.base import Sample, register
from tuner.tasks.benchmarks.rules import (
    gqa,
    mmbench,
    mme,
    pope,
    scienceqa,
    textvqa,
    vizwiz,
    vqav2,
)
from tuner.tasks.dataset import DataOptions, Dataset
from tuner.tasks.readers import Raw
from tuner.tasks.table import Asked, Columns, Divide

ORGANISATION = "lmms-lab-encoder"
_OPTIONS = ("A", "B", "C", "D", "E")


class BenchmarkOptions(DataOptions):
    """Keys of a benchmark; its prompt and its scorer are its own.

    Attributes:
        dataset: A folder or a hub id in place of the benchmark's own.
        organisation: Whose copy of it on the hub.
    """

    dataset: FolderName | None = None
    organisation: str = Field(default=ORGANISATION, pattern=r"^[A-Za-z0-9._-]+$")


class ReportOnlyOptions(BenchmarkOptions):
    """Keys of a benchmark that is reported on alone.

    Attributes:
        allow_tuning: Tune on it all the same.
    """

    allow_tuning: bool = False


class Benchmark(Dataset):
    """A benchmark: a subclass declares it.

    Attributes:
        home: Its name on the hub.
        config: Its configuration there.
        rules: Its prompts and scores.
        reads: Columns that the rules read.
        optional: Those of them that may be missing.
        numbers: Those of them that are whole numbers.
        columns: Which columns hold ids and the group.
    """

    options: ClassVar[type[BenchmarkOptions]] = BenchmarkOptions
    _options: BenchmarkOptions
    home: ClassVar[str]
    config: ClassVar[str | None] = None
    rules: ClassVar[ModuleType]
    reads: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[tuple[str, ...]] = ()
    columns: Columns = Columns()
    one_word: ClassVar[bool] = True

    def __init__(self, options: BenchmarkOptions) -> None:
        """Set the task up.

        Raises:
            StudyError: A data set that is neither a folder nor a hub id, or an answer format, which
                is the benchmark's own.
        """
        if options.answer_format is not None:
            raise StudyError(
                f"task.answer_format: the prompt of {self.name!r} is the benchmark's own; leave "
                "it out, or read the data set with the task 'hub-vqa'"
            )
        super().__init__(options)

    def _data_set(self) -> str:
        return self._options.dataset or f"{self._options.organisation}/{self.home}"

    def _named_columns(self) -> Columns:
        return self.columns

    def _columns(self, raw: Raw) -> Mapping[str, str]:
        named = self._named_columns().model_dump(exclude_none=True)
        del named["question"], named["answers"]  # the rules read them
        needed = {name: name for name in self.reads if name not in self.optional}
        for column in (named["image"], *needed):
            if column not in raw.columns:
                raise StudyError(
                    f"{raw.where}: no column {column!r}, which {self.name!r} reads (there are "
                    f"{', '.join(raw.columns)}); give the data set as lmms-eval has it"
                )
        return {role: column for role, column in named.items() if column in raw.columns}

    def _read(self, split: str) -> Raw:
        config = self._options.config or (None if self.local else self.config)
        if self.local and config is None and self.config is not None:
            config = self.config if self._has_folder(self.config) else None
        return self._open(split, config)

    def _has_folder(self, name: str) -> bool:
        return self._folder is not None and (self._folder / name).is_dir()

    def _asked(self, raw: Raw, row: int, place: str) -> Asked:
        own = raw.cells(row)
        cells: dict[str, Any] = {name: own.get(name) for name in self.reads}
        group = self.columns.group or ""
        try:
            for name in self.numbers:
                operator.index(cells[name])
            asked = Asked(
                self.rules.question(cells),
                self._rendered(cells),
                self.rules.answers(cells),
                cells_.label_of(own.get(group), place, group) or "all",
                cells,
            )
            self.rules.score("", cells)
        except StudyError:
            raise
        except Exception as error:  # a cell of another type, which the rules take as it comes
            raise StudyError(
                f"{place}: no row of {self.name!r} ({type(error).__name__}: {error}); its columns "
                f"{', '.join(self.reads)} must be as lmms-eval has them"
            ) from None
        cells_.answers_of(asked.answers, place)  # that they are texts, which no rule checks
        if asked.question:
            cells_.text_of(asked.question, place, "question")
        return asked

    def _rendered(self, cells: Mapping[str, Any]) -> str:
        return str(self.rules.prompt(cells))

    @property
    def binary(self) -> bool:
        """Whether the scores are 0 or 1."""
        return self.one_word

    def score(self, prediction: str, sample: Sample) -> float:
        """Score one answer as lmms-eval does."""
        return float(self.rules.score(prediction, sample.row))

    def measures(self, predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
        """Measure all answers as lmms-eval does, under its names."""
        rows = [sample.row for sample in samples]
        try:
            return dict(self.rules.summary(rows, predictions))
        except StudyError:  # a thinned split has no pairs of questions
            return {}


@register
class Gqa(Benchmark):
    """GQA: questions and images lie in two configurations and are joined by image."""

    name = "gqa"
    home = "GQA"
    rules: ClassVar[ModuleType] = gqa
    reads = ("question", "answer")
    columns = Columns(image_id="imageId", id="id")

    def _read(self, split: str) -> Raw:
        asked = self._open(split, f"{split}_balanced_instructions")
        shown = self._open(split, f"{split}_balanced_images")
        places = {str(shown.cells(i)["id"]): i for i in range(shown.total)}

        def image(row: int, column: str) -> Any:
            name = str(asked.cells(row).get("imageId"))
            if name not in places:
                raise StudyError(f"{asked.place(row)}: no image {name!r} in {shown.where}")
            return shown.image(places[name], column)

        return Raw(
            asked.where,
            asked.total,
            [*asked.columns, "image"],
            asked.place,
            asked.number,
            asked.cells,
            image,
        )


@register
class MMBench(Benchmark):
    """MMBench: its score of a question is that of one rotation; the measure asks for all."""

    name = "mmbench"
    home = "MMBench"
    config = "en"
    rules: ClassVar[ModuleType] = mmbench
    reads = ("index", "question", "hint", "answer", *_OPTIONS)
    optional = ("hint", "C", "D", "E")
    numbers = ("index",)
    columns = Columns(id="index", group="category")
    division = Divide(split="dev")


@register
class MMBenchCn(MMBench):
    """MMBench in Chinese."""

    name = "mmbench-cn"
    config = "cn"

    def _rendered(self, cells: Mapping[str, Any]) -> str:
        return mmbench.prompt(cells, "cn")


@register
class Mme(Benchmark):
    """MME: never to be tuned on; its two questions an image count for more together."""

    name = "mme"
    home = "MME"
    rules: ClassVar[ModuleType] = mme
    options = ReportOnlyOptions
    _options: ReportOnlyOptions
    reads = ("question_id", "question", "answer", "category")
    columns = Columns(image_id="question_id", group="category")
    division = Divide(split="test")

    @property
    def report_only(self) -> bool:  # type: ignore[override]
        """Unless the study says otherwise."""
        return not self._options.allow_tuning


@register
class Pope(Benchmark):
    """POPE: yes or no; the configuration ``Full`` has the splits adversarial, popular, random."""

    name = "pope"
    home = "POPE"
    rules: ClassVar[ModuleType] = pope
    reads = ("question", "answer")
    columns = Columns(image_id="image_source", group="category")
    division = Divide(split="test")


@register
class ScienceQa(Benchmark):
    """ScienceQA, the questions with an image."""

    name = "scienceqa-img"
    home = "ScienceQA"
    config = "ScienceQA-IMG"
    rules: ClassVar[ModuleType] = scienceqa
    reads = ("question", "choices", "answer", "hint")
    optional = ("hint",)
    columns = Columns(group="subject")


@register
class TextVqa(Benchmark):
    """TextVQA, without OCR tokens."""

    name = "textvqa"
    home = "textvqa"
    rules: ClassVar[ModuleType] = textvqa
    reads = ("question", "answers")
    columns = Columns(image_id="image_id", id="question_id")
    one_word = False


@register
class VizWiz(Benchmark):
    """VizWiz-VQA."""

    name = "vizwiz"
    home = "VizWiz-VQA"
    rules: ClassVar[ModuleType] = vizwiz
    reads = ("question", "answers")
    columns = Columns(id="question_id", group="category")
    division = Divide(split="val")
    one_word = False


@register
class VqaV2(Benchmark):
    """VQAv2, of whose splits validation is labelled."""

    name = "vqav2"
    home = "VQAv2"
    rules: ClassVar[ModuleType] = vqav2
    reads = ("question", "answers")
    columns = Columns(image_id="image_id", id="question_id", group="answer_type")
    division = Divide(split="validation")
    one_word = False
