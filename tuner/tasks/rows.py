"""What the cells of a row mean: cells -> a sample, every wrong one named by its place."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from PIL import Image

from resprune.errors import ResPruneError, StudyError
from resprune.validation import shown
from tuner.imagefile import open_image
from tuner.tasks import scorers
from tuner.tasks.base import Picture
from tuner.tasks.scorers import Scorer

MAX_TEXT = 20_000
_MAX_LABEL = 1000
_MAX_IMAGE_BYTES = 2**29  # as many as the pixels that are opened take, uncompressed and twice


@dataclass(frozen=True)
class Encoded:
    """An image of a row, not yet read.

    Attributes:
        place: The row, for messages.
        cell: Reads the cell: bytes, a path inside ``folder``, or a table of either.
        folder: Where images lie beside the table; None where they lie within it.
    """

    place: str
    cell: Callable[[], Any]
    folder: Path | None

    def read(self) -> tuple[bytes, str]:
        """Read it; return its bytes, and what messages call it.

        Raises:
            StudyError: It is missing, outside the folder, or cannot be read.
        """
        value = self.cell()
        data = value.get("bytes") if isinstance(value, Mapping) else value
        path = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(data, bytes) and data:
            return data, self.place
        if self.folder is not None and isinstance(path, str) and path.strip():
            file = inside(self.folder, path, self.place)
            try:
                if file.stat().st_size > _MAX_IMAGE_BYTES:
                    raise StudyError(
                        f"{self.place}: {file}: more than the {_MAX_IMAGE_BYTES:,} bytes that are "
                        "read of an image; shrink it"
                    )
                return file.read_bytes(), f"{self.place}: {path}"
            except OSError as error:
                raise StudyError(
                    f"{self.place}: {file}: cannot be read ({error.strerror})"
                ) from None
        only = f", only the path {shown(path)} and no folder" if path else ""
        raise StudyError(
            f"{self.place}: no image{only}; give a table whose images are within its files, or "
            "beside them in its folder"
        )

    def digest(self) -> str:
        """Hash its bytes, 16 hex digits."""
        return hashlib.blake2b(self.read()[0], digest_size=8).hexdigest()

    def open(self) -> Image.Image:
        """Decode it as RGB.

        Raises:
            StudyError: It is no image; see ``open_image``.
        """
        try:
            return open_image(*self.read())
        except ResPruneError as error:
            raise StudyError(str(error)) from None

    def path(self) -> str | None:
        """Return where an image lies in the folder; None where it lies in the table."""
        value = self.cell()
        if self.folder is None or not isinstance(value, str):
            return None
        return str(inside(self.folder, value, self.place).relative_to(self.folder))

    def picture(self, name: str | None, digests: dict[str, str]) -> Picture:
        """Return the picture, named by where it lies or by its digest where no name is given.

        Args:
            name: Its name.
            digests: Digests of named pictures by now, which are not read again; added to.
        """
        known = name or self.path()
        if known is None:
            known = digest = self.digest()
        elif known in digests:
            digest = digests[known]
        else:
            digest = digests[known] = self.digest()
        return Picture(known, partial(Encoded.open, self), digest)


def inside(folder: Path, name: str, place: str) -> Path:
    """Return the file that an image's name means.

    Raises:
        StudyError: None, or one outside the folder.
    """
    try:
        name.encode("utf-8")  # a half character is in no message, nor in what is saved
        path = (folder / name).resolve()
        there = path.is_file()
    except (ValueError, OSError, RuntimeError) as error:  # a NUL, too long a name, a loop of links
        said = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        raise StudyError(f"{place}: image {shown(name)} is no file's name ({said})") from None
    if not path.is_relative_to(folder):
        raise StudyError(
            f"{place}: image {shown(name)} is outside {folder}; copy it into the folder"
        )
    if not there:
        raise StudyError(f"{place}: image {shown(name)}: no such file in {folder}")
    return path


def text_of(value: Any, place: str, column: str) -> str:
    """Check a text.

    Raises:
        StudyError: It is none, empty, too long, or holds what is no text.
    """
    if not isinstance(value, str) or not value.strip():
        raise StudyError(f"{place}: {column!r} is missing or no text ({shown(value)})")
    text = value.strip()
    if len(text) > MAX_TEXT:
        raise StudyError(
            f"{place}: {column!r} has {len(text):,} characters, more than the {MAX_TEXT:,} that "
            "are asked; shorten it"
        )
    _check_characters(text, place, column)
    return text


def label_of(value: Any, place: str, column: str) -> str | None:
    """Read a short name: of a row, an image, a group; a number is one too, nothing is None.

    Raises:
        StudyError: It is a list or a table, too long, or holds what is no text.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float):
        raise StudyError(f"{place}: {column!r} is no text or number ({shown(value)})")
    text = str(value)
    if len(text) > _MAX_LABEL:
        raise StudyError(f"{place}: {column!r} has {len(text):,} characters; shorten it")
    _check_characters(text, place, column)
    return text


def answers_of(cell: Any, place: str) -> tuple[str, ...]:
    """Read answers, the most frequent first: it is the gold one.

    Args:
        cell: A text, a list of texts, a list of tables with the key ``answer``, or (VQAv2 in older
            versions) such a table of lists; None for none.
        place: The row, for messages.

    Raises:
        StudyError: It is something else.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("answer")
    cells = cell if isinstance(cell, list | tuple) else [] if cell is None else [cell]
    answers: list[Any] = [a.get("answer") if isinstance(a, Mapping) else a for a in cells]
    if not all(isinstance(answer, str) for answer in answers):
        raise StudyError(
            f"{place}: 'answers' holds no answers (a text, a list of texts, or a list of "
            "tables with the key 'answer')"
        )
    for answer in answers:
        _check_characters(answer, place, "answers")
        if len(answer) > MAX_TEXT:
            raise StudyError(f"{place}: an answer has {len(answer):,} characters; shorten it")
    times = Counter(answers)
    return tuple(sorted(answers, key=lambda answer: (not answer.strip(), -times[answer])))


def choices_of(cell: Any, place: str) -> tuple[str, ...]:
    """Read the options of a question.

    Raises:
        StudyError: They are no list of two to 26 texts.
    """
    if not isinstance(cell, list | tuple) or not 2 <= len(cell) <= len(ascii_uppercase):
        raise StudyError(f"{place}: 'choices' is no list of 2 to 26 texts ({shown(cell)})")
    return tuple(text_of(each, place, "choices") for each in cell)


def gold_letter(cell: Any, choices: Sequence[str], place: str) -> tuple[str, ...]:
    """Return the letter of the right option.

    Args:
        cell: The letter, the option's text, or its number from 0; of a list, the first.
        choices: The options.
        place: The row, for messages.

    Raises:
        StudyError: It names no option.
    """
    value = cell[0] if isinstance(cell, list | tuple) and cell else cell
    letters = ascii_uppercase[: len(choices)]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return (letters[value],)
    if isinstance(value, str):
        if value in choices:
            return (letters[list(choices).index(value)],)
        if len(value.strip()) == 1 and value.strip().upper() in letters:
            return (value.strip().upper(),)
    raise StudyError(
        f"{place}: 'answer' {shown(value)} is none of the {len(choices)} choices; give a letter "
        f"from A to {letters[-1]}, a choice's text, or its number from 0"
    )


def with_choices(question: str, choices: Sequence[str]) -> str:
    """Write a question with its options below it, a letter each."""
    lines = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lines])


def check_answers(
    scorer: Scorer, answers: Sequence[str], choices: Sequence[str], place: str
) -> None:
    """Check that a scorer can use the gold answers of a row.

    Raises:
        StudyError: It cannot.
    """
    if scorer.letters and not choices:
        raise StudyError(f"{place}: no 'choices', which the scorer 'choice' needs")
    if scorer is scorers.get("regex"):
        for answer in answers:
            try:
                scorers.check_pattern(answer)
            except StudyError as error:
                raise StudyError(f"{place}: {error}") from None


def _check_characters(text: str, place: str, column: str) -> None:
    if "\0" in text:
        raise StudyError(f"{place}: {column!r} holds a NUL character; remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise StudyError(
            f"{place}: {column!r} holds half a character ({error.reason}); write it as UTF-8"
        ) from None
