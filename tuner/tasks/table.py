"""Questions about images from a table: ``jsonl`` (a local folder) and ``hub-vqa`` (``datasets``).

An image is read and decoded when it is asked for, and its path is followed only inside the folder
of the table.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from resprune.errors import ResPruneError, StudyError, near_names
from resprune.validation import StrictModel
from tuner.imagefile import open_image
from tuner.paths import FolderName
from tuner.scoring import metrics
from tuner.tasks.base import (
    Sample,
    Task,
    TaskOptions,
    exact_match,
    few_an_image,
    register,
    wanted,
)
from tuner.tasks.vqa_accuracy import vqa_accuracy

_Row = tuple[str, Mapping[str, Any], Callable[[], Any]]
"""Where a row is, for messages; its cells by role, without empty ones; reads its image cell."""


@dataclass(frozen=True)
class _Rows:
    """The rows of a split.

    Attributes:
        total: How many.
        where: What messages call the split.
        row: Reads one.
    """

    total: int
    where: str
    row: Callable[[int], _Row]


class _Table(Task):
    """Makes samples of rows; a subclass finds the rows."""

    _folder: Path | None = None

    @abstractmethod
    def _rows(self, split: str) -> _Rows: ...

    def samples(self, split: str, count: int | None, offset: int = 0) -> list[Sample]:
        """Read rows ``offset`` to ``offset + count - 1`` of a split."""
        rows = self._rows(split)
        places = wanted(rows.total, count, offset, rows.where)
        return self._samples(split, map(rows.row, places))

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
        rows = self._rows(split)
        ids = map(self._ids, map(rows.row, range(rows.total)))
        few = few_an_image(ids, questions_per_image, seed)
        places = wanted(len(few), count, offset, rows.where, questions_per_image)
        return self._samples(split, (rows.row(few[i]) for i in places))

    def _ids(self, row: _Row) -> tuple[str, str]:
        """Return the ids of a row's image and of the row."""
        place, cells, cell = row
        image_id = str(cells.get("image_id", ""))
        return image_id or self._digest(place, cell), str(cells["id"])

    def _digest(self, place: str, cell: Callable[[], Any]) -> str:
        return hashlib.blake2b(self._encoded(place, cell)[0], digest_size=8).hexdigest()

    def _samples(self, split: str, rows: Iterable[_Row]) -> list[Sample]:
        digests: dict[str, str] = {}
        found = [self._sample(row, digests) for row in rows]
        ids = Counter(sample.id for sample in found)
        if len(ids) < len(found):
            raise StudyError(
                f"{self.source}: {split}: id {ids.most_common(1)[0][0]!r} is used twice; name ids "
                "that are unique within a split, or leave them out"
            )
        return found

    def _sample(self, row: _Row, digests: dict[str, str]) -> Sample:
        place, cells, cell = row
        question = cells.get("question")
        if not isinstance(question, str) or not question.strip():
            raise StudyError(f"{place}: 'question' is missing or no text ({question!r})")
        question = self._transform(question.strip())
        image_id = str(cells.get("image_id", ""))
        if image_id not in digests:
            digest = self._digest(place, cell)
            image_id = image_id or digest
            digests[image_id] = digest
        return Sample(
            id=str(cells["id"]),
            image_id=image_id,
            question=question,
            prompt=self._prompt(question),
            answers=self._answers(place, cells.get("answers")),
            group=str(cells.get("group", "all")),
            load=partial(self._image, place, cell),
            image_version=digests[image_id],
        )

    def _transform(self, question: str) -> str:
        return question

    def _answers(self, place: str, cell: Any) -> tuple[str, ...]:
        """Read the answers, the most frequent first: it is the gold one."""
        if isinstance(cell, Mapping):  # a table of lists, as for VQAv2 in older versions
            cell = cell.get("answer")
        cells = cell if isinstance(cell, list) else [] if cell is None else [cell]
        answers: list[Any] = [a.get("answer") if isinstance(a, Mapping) else a for a in cells]
        if not all(isinstance(answer, str) for answer in answers):
            raise StudyError(
                f"{place}: 'answers' holds no answers (a text, a list of texts, or a list of "
                "tables with the key 'answer')"
            )
        if metrics.get(self._options.metric).needs_gold and not any(
            answer.strip() for answer in answers
        ):
            raise StudyError(
                f"{place}: no answer; add one, choose a split with answers, or set "
                "task.metric = 'fidelity', which needs none"
            )
        times = Counter(answers)
        return tuple(sorted(answers, key=lambda answer: (not answer.strip(), -times[answer])))

    def _image(self, place: str, cell: Callable[[], Any]) -> Image.Image:
        try:
            return open_image(*self._encoded(place, cell))
        except ResPruneError as error:
            raise StudyError(str(error)) from None

    def _encoded(self, place: str, cell: Callable[[], Any]) -> tuple[bytes, str]:
        """Read an encoded image; return it, and what messages call it."""
        value = cell()
        data = value.get("bytes") if isinstance(value, Mapping) else value
        path = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(data, bytes) and data:
            return data, place
        if self._folder is not None and isinstance(path, str) and path.strip():
            file = _inside(self._folder, path, place)
            try:
                return file.read_bytes(), f"{place}: {path}"
            except OSError as error:
                raise StudyError(f"{place}: {file}: cannot be read ({error.strerror})") from None
        only = f", only the path {path!r} and no folder" if path else ""
        raise StudyError(
            f"{place}: no image{only}; give a table whose images are within its files, or beside "
            "them in its folder"
        )


class FolderOptions(TaskOptions):
    """Keys of ``jsonl``.

    Attributes:
        folder: Folder of the splits and images; relative to the study file.
    """

    folder: FolderName


@register
class JsonLines(_Table):
    """A local folder with one ``<split>.jsonl`` a split and the images inside the folder.

    A line is an object with ``image`` (path inside the folder), ``question``, and ``answer`` or
    ``answers`` (may be left out under ``fidelity``); ``id`` and ``group`` are optional. Lines are
    not read through ``datasets``, which wants one type a column and names neither the line nor
    the key that is wrong.
    """

    name = "jsonl"
    options = FolderOptions
    _folder: Path
    _KEYS = ("id", "image", "question", "answer", "answers", "group")

    def __init__(self, options: FolderOptions) -> None:
        """Set the task up.

        Raises:
            StudyError: No such folder.
        """
        super().__init__(options)
        self._folder = Path(options.folder).resolve()
        if not self._folder.is_dir():
            raise StudyError(f"task.folder: {options.folder}: no such folder")
        self.source = str(self._folder)

    def _rows(self, split: str) -> _Rows:
        known = sorted(path.stem for path in self._folder.glob("*.jsonl"))
        if split not in known:
            raise StudyError(
                f"{self._folder}: no split {split!r} (a split is a file <split>.jsonl). "
                f"{near_names(split, known)}"
            )
        path = self._folder / f"{split}.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"{path}: cannot be read as UTF-8 text ({error})") from error
        numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip()]

        def row(i: int) -> _Row:
            number, line = numbered[i]
            place = f"{path}: line {number}"
            cells = {"id": f"{split}-{number}", **self._cells(line, place)}
            return place, cells, partial(cells.get, "image_id")

        return _Rows(len(numbered), str(path), row)

    def _cells(self, line: str, place: str) -> dict[str, Any]:
        try:
            data = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise StudyError(f"{place}: not valid JSON ({error}); one object a line") from None
        if not isinstance(data, dict):
            raise StudyError(f"{place}: expected an object, found {type(data).__name__}")
        for key in data:
            if key not in self._KEYS:
                raise StudyError(f"{place}: unknown key {key!r}. {near_names(key, self._KEYS)}")
        image = data.get("image")
        if not isinstance(image, str) or not image.strip():
            raise StudyError(f"{place}: 'image' is missing or no text ({image!r})")
        file = _inside(self._folder, image, place)
        answers = data.get("answers", data.get("answer"))
        return {**data, "answers": answers, "image_id": str(file.relative_to(self._folder))}


class Columns(StrictModel):
    """Which columns of a data set hold what.

    Attributes:
        image: The image.
        question: The question.
        answers: One answer, or a list of them.
        image_id: Shared by the questions about the same image; a hash of the image where None.
        id: Unique within a split; the row's number where None.
        group: Question type, for reporting only.
    """

    image: str = "image"
    question: str = "question"
    answers: str = "answers"
    image_id: str | None = None
    id: str | None = None
    group: str | None = None


class DatasetOptions(TaskOptions):
    """Keys of ``hub-vqa``.

    Attributes:
        dataset: A hub id (``user/name``), or a folder, such as one of parquet files; relative to
            the study file.
        config: Configuration of the data set.
        revision: Commit, tag or branch of the data set.
        columns: Which of its columns hold what.
        scorer: ``vqa`` (accuracy against ten annotators) or ``exact``.
        question_transform: ``none`` or ``capitalize`` (first letter upper, the rest lower).
    """

    dataset: FolderName
    config: str | None = None
    revision: str | None = None
    columns: Columns = Columns()
    scorer: Literal["vqa", "exact"] = "vqa"
    question_transform: Literal["capitalize", "none"] = "none"


@register
class HubVqa(_Table):
    """A data set of the hub, or of a local folder, read by ``datasets``.

    No code of the data set is run, and its rows stay on disk, memory-mapped.
    """

    name = "hub-vqa"
    options = DatasetOptions
    _options: DatasetOptions

    def __init__(self, options: DatasetOptions) -> None:
        """Set the task up.

        Raises:
            StudyError: A data set that is neither a folder nor a hub id.
        """
        super().__init__(options)
        name = self.source = options.dataset
        self.local = Path(name).is_dir()
        self._folder = Path(name).resolve() if self.local else None
        if not self.local and (name.count("/") != 1 or name.startswith((".", "/"))):
            raise StudyError(
                f"task.dataset: {name!r} is no folder and no hub id of the form user/name"
            )

    @property
    def binary(self) -> bool:
        """Whether the scorer is ``exact``."""
        return self._options.scorer == "exact"

    def score(self, prediction: str, sample: Sample) -> float:
        """Score an answer with the study's scorer."""
        rule = vqa_accuracy if self._options.scorer == "vqa" else exact_match
        return rule(prediction, sample.answers)

    def _transform(self, question: str) -> str:
        capitalize = self._options.question_transform == "capitalize"
        return question.capitalize() if capitalize else question

    def _rows(self, split: str) -> _Rows:
        import datasets

        where = f"{self.source}: {split}"
        data = self._open(split)
        columns = self._options.columns.model_dump(exclude_none=True)
        if (
            not metrics.get(self._options.metric).needs_gold
            and columns["answers"] not in data.column_names
        ):
            del columns["answers"]
        for column in columns.values():
            if column not in data.column_names:
                raise StudyError(
                    f"{where}: task.columns: no column {column!r}. "
                    f"{near_names(column, data.column_names)}"
                )
        image = columns.pop("image")
        images = data.select_columns([image])
        if isinstance(images.features[image], datasets.Image):
            images = images.cast_column(image, datasets.Image(decode=False))
        text = data.select_columns(sorted(set(columns.values())))

        def row(i: int) -> _Row:
            given = text[i]
            cells = {role: given[column] for role, column in columns.items()}
            cells = {role: cell for role, cell in cells.items() if cell not in (None, "")}
            return (
                f"{where}: row {i}",
                {"id": f"{split}-{i}", **cells},
                partial(_cell, images, i, image),
            )

        return _Rows(len(data), where, row)

    def _open(self, split: str) -> Any:
        """Open a split, memory-mapped."""
        import datasets

        where = {"name": self._options.config, "revision": self._options.revision}
        try:
            builder = datasets.load_dataset_builder(self.source, **where)
            known = [str(s) for s in builder.info.splits or builder.config.data_files or ()]
            if known and split not in known:
                raise StudyError(f"{self.source}: no split {split!r}. {near_names(split, known)}")
            return datasets.load_dataset(self.source, **where, split=split)
        except StudyError:
            raise
        except Exception as error:  # readers, hub and network have no error class in common
            reason = (str(error).strip().splitlines() or [""])[0]
            raise StudyError(
                f"task.dataset: {self.source!r} cannot be loaded ({type(error).__name__}: "
                f"{reason}); check the id, task.config and task.revision; without a network, set "
                "HF_HOME to a cache that holds it (and HF_HUB_OFFLINE=1), or task.dataset to a "
                "folder of parquet files, named after their splits"
            ) from error


def _cell(table: Any, row: int, column: str) -> Any:
    return table[row][column]


def _inside(folder: Path, name: str, place: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise StudyError(f"{place}: image {name!r} is outside {folder}; copy it into the folder")
    if not path.is_file():
        raise StudyError(f"{place}: image {name!r}: no such file in {folder}")
    return path
