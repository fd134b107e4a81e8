"""``jsonl``: a local folder with one ``<split>.jsonl`` a split and the images inside the folder.

A line is an object with ``image`` (path inside the folder), ``question``, and ``answer`` or
``answers`` (may be left out under the metric ``fidelity``); ``id`` and ``group`` are optional.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from resprune.errors import ResPruneError, StudyError, near_names
from tuner.imagefile import open_image
from tuner.tasks.base import Sample, exact_match

_KEYS = ("id", "image", "question", "answer", "answers", "group")


class JsonLines:
    """A folder of JSON-lines splits with local images."""

    name = "jsonl"

    def __init__(
        self,
        folder: str | None = None,
        answer_format: str | None = None,
        max_new_tokens: int | None = None,
        labels: bool = True,
    ) -> None:
        """Set the task up.

        Args:
            folder: Folder of the splits and images.
            answer_format: Appended to every question; by default LLaVA's short-answer
                instruction.
            max_new_tokens: Tokens to generate.
            labels: Whether every sample must have an answer.

        Raises:
            StudyError: No folder, or it does not exist.
        """
        if folder is None:
            raise StudyError("task.folder is missing: the task 'jsonl' reads <split>.jsonl from it")
        self._folder = Path(folder).resolve()
        if not self._folder.is_dir():
            raise StudyError(f"task.folder: {folder}: no such folder")
        if answer_format is None:
            answer_format = "Answer the question using a single word or phrase."
        self._suffix = f"\n{answer_format}" if answer_format else ""
        self.max_new_tokens = max_new_tokens or 16
        self._labels = labels

    def samples(self, split: str, count: int | None, offset: int = 0) -> list[Sample]:
        """Read samples of ``<split>.jsonl``."""
        known = sorted(path.stem for path in self._folder.glob("*.jsonl"))
        if split not in known:
            raise StudyError(
                f"{self._folder}: no split {split!r} (a split is a file <split>.jsonl). "
                f"{near_names(split, known)}"
            )
        path = self._folder / f"{split}.jsonl"
        found: list[Sample] = []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"{path}: cannot be read as UTF-8 text ({error})") from error
        numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip()]
        end = None if count is None else offset + count
        if end is not None and end > len(numbered):
            raise StudyError(
                f"{path}: {count} samples from {offset} on were asked for and the file has "
                f"{len(numbered)}; ask for fewer"
            )
        for number, line in numbered[offset:end]:
            found.append(self._sample(split, number, line, f"{path}: line {number}"))
        ids = [sample.id for sample in found]
        if len(set(ids)) != len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise StudyError(f"{path}: id {twice!r} is used twice; make ids unique or leave them")
        return found

    def score(self, prediction: str, sample: Sample) -> float:
        """Exact match with any answer after lower-casing and stripping punctuation."""
        return exact_match(prediction, sample.answers)

    def _sample(self, split: str, number: int, line: str, where: str) -> Sample:
        try:
            data = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise StudyError(f"{where}: not valid JSON ({error}); one object a line") from None
        if not isinstance(data, dict):
            raise StudyError(f"{where}: expected an object, found {type(data).__name__}")
        for key in data:
            if key not in _KEYS:
                raise StudyError(f"{where}: unknown key {key!r}. {near_names(str(key), _KEYS)}")
        question = _text(data, "question", where)
        image = self._inside(_text(data, "image", where), where)
        answers: Any = data.get("answers", data.get("answer", ()))
        answers = (answers,) if isinstance(answers, str) else answers
        texts = isinstance(answers, list | tuple)
        if not texts or not all(isinstance(text, str) and text.strip() for text in answers):
            raise StudyError(f"{where}: answers must be strings that are not empty")
        if self._labels and not answers:
            raise StudyError(
                f"{where}: no answer; add one, or set task.metric = 'fidelity', which needs none"
            )
        return Sample(
            id=str(data.get("id", f"{split}-{number}")),
            image_id=str(image.relative_to(self._folder)),
            question=question,
            prompt=question + self._suffix,
            answers=tuple(answers),
            group=str(data.get("group", "all")),
            load=partial(_open, image, where),
            image_version=_digest(image, where),
        )

    def _inside(self, name: str, where: str) -> Path:
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            raise StudyError(
                f"{where}: image {name!r} is outside {self._folder}; copy it into the folder"
            )
        if not path.is_file():
            raise StudyError(f"{where}: image {name!r}: no such file in {self._folder}")
        return path


def _open(path: Path, where: str) -> Image.Image:
    try:
        return open_image(path)
    except ResPruneError as error:
        raise StudyError(f"{where}: {error}") from None


def _text(data: dict[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value.strip():
        raise StudyError(f"{where}: {key!r} is missing or empty; give a text")
    return value


def _digest(path: Path, where: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise StudyError(f"{where}: {path}: cannot be read ({error.strerror})") from error
