"""``hub-vqa``: questions about images from a data set of the hub, or of a local folder.

Read through ``datasets.load_dataset``, which runs no code of the data set. Rows stay on disk: a
sample holds its text and where its image is, and the image is read and decoded when it is asked
for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from resprune.errors import ResPruneError, StudyError, near_names
from tuner.imagefile import open_image
from tuner.tasks.base import Sample, exact_match
from tuner.tasks.vqa_accuracy import vqa_accuracy

DEFAULT_COLUMNS = {"image": "image", "question": "question", "answers": "answers"}
_SCORERS: dict[str, Callable[[str, tuple[str, ...]], float]] = {
    "vqa": vqa_accuracy,
    "exact": exact_match,
}
_TRANSFORMS: dict[str, Callable[[str], str]] = {"none": str, "capitalize": str.capitalize}
_SHORT_ANSWER = "Answer the question using a single word or phrase."
_Known = TypeVar("_Known")


class _Rows(Protocol):
    """What is used of a ``datasets.Dataset``."""

    column_names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> dict[str, Any]: ...

    def select_columns(self, names: list[str]) -> _Rows: ...


class HubVqa:
    """A visual question answering data set in the hub's format."""

    name = "hub-vqa"

    def __init__(
        self,
        dataset: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        columns: Mapping[str, str] | None = None,
        scorer: str = "vqa",
        question_transform: str = "none",
        answer_format: str | None = None,
        max_new_tokens: int | None = None,
        labels: bool = True,
    ) -> None:
        """Set the task up; nothing is read yet.

        Args:
            dataset: A hub id (``user/name``) or a local folder, such as one of parquet files.
            config: Configuration of the data set.
            revision: Commit, tag or branch of the data set.
            columns: Names of the columns that hold ``image``, ``question``, ``answers`` and,
                where there are such, ``image_id``, ``id`` and ``group``.
            scorer: ``vqa`` (accuracy against ten annotators) or ``exact``.
            question_transform: ``none`` or ``capitalize`` (first letter upper, the rest lower).
            answer_format: Appended to every question; by default LLaVA's short-answer
                instruction.
            max_new_tokens: Tokens to generate.
            labels: Whether every sample must have an answer.

        Raises:
            StudyError: No data set, or one that is neither a folder nor a hub id.
        """
        if dataset is None:
            raise StudyError(
                "task.dataset is missing: the task 'hub-vqa' reads a data set of the hub "
                "(user/name) or a local folder"
            )
        self._folder = Path(dataset).resolve() if Path(dataset).is_dir() else None
        if self._folder is None and (dataset.count("/") != 1 or dataset.startswith((".", "/"))):
            raise StudyError(
                f"task.dataset: {dataset!r} is no folder and no hub id of the form user/name"
            )
        self._dataset = dataset
        self._config = config
        self._revision = revision
        self._columns = {**DEFAULT_COLUMNS, **(columns or {})}
        self._score = _one_of(_SCORERS, scorer, "scorer")
        self._transform = _one_of(_TRANSFORMS, question_transform, "question_transform")
        format_ = _SHORT_ANSWER if answer_format is None else answer_format
        self._suffix = f"\n{format_}" if format_ else ""
        self.max_new_tokens = max_new_tokens or 16
        self._labels = labels

    def samples(self, split: str, count: int | None, offset: int = 0) -> list[Sample]:
        """Read rows ``offset`` to ``offset + count - 1`` of a split."""
        rows = self._rows(split)
        end = len(rows) if count is None else offset + count
        if end > len(rows):
            raise StudyError(
                f"{self._where(split)}: {count} samples from {offset} on were asked for and the "
                f"split has {len(rows)}; ask for fewer"
            )
        text = rows.select_columns([c for c in rows.column_names if c != self._columns["image"]])
        digests: dict[str, str] = {}
        found = [self._sample(split, rows, text[row], row, digests) for row in range(offset, end)]
        twice = [name for name, times in Counter(s.id for s in found).items() if times > 1]
        if twice:
            raise StudyError(
                f"{self._where(split)}: id {twice[0]!r} is used twice; name a column that is "
                "unique as task.columns.id, or leave the key out"
            )
        return found

    def score(self, prediction: str, sample: Sample) -> float:
        """Score an answer with the study's scorer."""
        return self._score(prediction, sample.answers)

    # -- one row ------------------------------------------------------------------------

    def _sample(
        self, split: str, rows: _Rows, text: dict[str, Any], row: int, digests: dict[str, str]
    ) -> Sample:
        where = f"{self._where(split)}: row {row}"
        question = text[self._columns["question"]]
        if not isinstance(question, str) or not question.strip():
            column = self._columns["question"]
            raise StudyError(f"{where}: column {column!r} holds no text ({question!r})")
        question = self._transform(question.strip())
        answers = self._answers(text, where)
        load = partial(self._image, rows, row, where)
        image_id = self._optional(text, "image_id")
        if image_id is None or image_id not in digests:
            digest = hashlib.blake2b(self._bytes(rows, row, where), digest_size=8).hexdigest()
            image_id = digest if image_id is None else image_id
            digests[image_id] = digest
        return Sample(
            id=self._optional(text, "id") or f"{split}-{row}",
            image_id=image_id,
            question=question,
            prompt=question + self._suffix,
            answers=answers,
            group=self._optional(text, "group") or "all",
            load=load,
            image_version=digests[image_id],
        )

    def _optional(self, text: Mapping[str, Any], role: str) -> str | None:
        value = text[self._columns[role]] if role in self._columns else None
        return None if value is None else str(value)

    def _answers(self, text: Mapping[str, Any], where: str) -> tuple[str, ...]:
        """Read the answers, the most frequent first: it is the gold one."""
        column = self._columns["answers"]
        answers: Any = text.get(column)
        if isinstance(answers, str):
            answers = [answers]
        if isinstance(answers, Mapping):  # a table of lists, as for VQAv2 in older versions
            answers = answers.get("answer")
        if isinstance(answers, list):
            answers = [a.get("answer") if isinstance(a, Mapping) else a for a in answers]
        answers = [] if answers is None else answers
        if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            raise StudyError(
                f"{where}: column {column!r} holds no answers (a text, a list of texts, or a list "
                "of tables with the key 'answer')"
            )
        if self._labels and not any(answer.strip() for answer in answers):
            raise StudyError(
                f"{where}: no answer in column {column!r}; choose a split with answers, or set "
                "task.metric = 'fidelity', which needs none"
            )
        times = Counter(answers)
        return tuple(sorted(answers, key=lambda answer: (not answer.strip(), -times[answer])))

    def _image(self, rows: _Rows, row: int, where: str) -> Image.Image:
        try:
            return open_image(self._bytes(rows, row, where), where)
        except ResPruneError as error:
            raise StudyError(str(error)) from None

    def _bytes(self, rows: _Rows, row: int, where: str) -> bytes:
        """Read the encoded image of one row."""
        column = self._columns["image"]
        value: Any = rows[row][column]
        path = None
        if isinstance(value, Mapping):
            path, value = value.get("path"), value.get("bytes")
        if isinstance(value, bytes) and value:
            return value
        if isinstance(path, str) and self._folder is not None:
            file = (self._folder / path).resolve()
            if file.is_relative_to(self._folder) and file.is_file():
                return file.read_bytes()
        raise StudyError(
            f"{where}: column {column!r} holds no image"
            + (f" (only the path {path!r}, which is not in the data set's folder)" if path else "")
            + "; give a data set whose images are within its files, or beside them in its folder"
        )

    # -- the data set -------------------------------------------------------------------

    def _where(self, split: str) -> str:
        return f"{self._dataset}: {split}"

    def _rows(self, split: str) -> _Rows:
        """Open a split, memory-mapped, its images not decoded."""
        import datasets

        data = self._open(split)
        missing = [c for c in self._columns.values() if c not in data.column_names]
        if missing == [self._columns["answers"]] and not self._labels:
            missing = []
        if missing:
            raise StudyError(
                f"{self._where(split)}: task.columns: no column {missing[0]!r}. "
                f"{near_names(missing[0], data.column_names)}"
            )
        data = data.select_columns(
            [c for c in data.column_names if c in set(self._columns.values())]
        )
        image = self._columns["image"]
        if isinstance(data.features[image], datasets.Image):
            data = data.cast_column(image, datasets.Image(decode=False))
        rows: _Rows = data
        return rows

    def _open(self, split: str) -> Any:
        import datasets

        where = {"name": self._config, "revision": self._revision}
        try:
            builder = datasets.load_dataset_builder(self._dataset, **where)
            known = [str(s) for s in builder.info.splits or builder.config.data_files or ()]
            if known and split not in known:
                raise StudyError(f"{self._dataset}: no split {split!r}. {near_names(split, known)}")
            return datasets.load_dataset(self._dataset, **where, split=split)
        except StudyError:
            raise
        except Exception as error:  # readers, hub and network have no error class in common
            raise StudyError(self._unreadable(error)) from error

    def _unreadable(self, error: Exception) -> str:
        reason = (str(error).strip().splitlines() or [""])[0]
        if self._folder is not None:
            fix = "give a folder of parquet files, named after their splits"
        else:
            fix = (
                "check the id, task.config and task.revision; without a network, set HF_HOME to a "
                "cache that holds it (and HF_HUB_OFFLINE=1), or task.dataset to a local folder "
                "with its files"
            )
        return (
            f"task.dataset: {self._dataset!r} cannot be loaded ({type(error).__name__}: {reason}); "
            f"{fix}"
        )


def _one_of(known: Mapping[str, _Known], name: str, key: str) -> _Known:
    if name not in known:
        raise StudyError(f"task.{key}: unknown value {name!r}. {near_names(name, known)}")
    return known[name]
