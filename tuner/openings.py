"""Which ranges of the certify and the report split a study has opened, and with what choices.

What is tested or reported holds for images that no choice has seen. So an opening is recorded
before anything of it is scored: other choices, or more certify images after a look, need images
of their own. The record lies in the run folder as ``openings.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from resprune.errors import ConfigError, StudyError
from resprune.files import read_json, write_json
from resprune.validation import StrictModel, explain
from tuner.study.schema import SplitSpec

OPENINGS_FILE = "openings.json"
Part = Literal["certify", "report"]


class Opening(StrictModel):
    """One look at a range of a split.

    Attributes:
        part: The part that the range played.
        range: Split, offset, samples and questions per image.
        choices: Digest of everything that was chosen before, 32 hex digits.
        date: Day, in UTC, as YYYY-MM-DD.
    """

    part: Part
    range: SplitSpec
    choices: str = Field(pattern=r"^[0-9a-f]{32}$")
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")

    def same(self, other: Opening) -> bool:
        """Say whether both are one opening: the same part, range and choices."""
        return self == other.model_copy(update={"date": self.date})

    def spends(self, other: Opening) -> bool:
        """Say whether, after this one, the other would look at images that are spent for it.

        Ranges of one split with another ``questions_per_image`` cannot be compared, and count as
        overlapping. A report of the same choices may be opened on another range.
        """
        one, two = self.range, other.range
        alike = one.questions_per_image == two.questions_per_image
        if one.split != two.split or (alike and not one.overlaps(two)):
            return False
        again = self.part == other.part == "report" and self.choices == other.choices
        return not again


class _Record(StrictModel):
    schema_version: Literal[1] = 1
    openings: tuple[Opening, ...] = Field(default=(), strict=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            return cls.model_validate(read_json(path))
        except ConfigError as error:
            reason = str(error)
        except ValidationError as error:
            reason = f"{path}: {explain(error, cls)}"
        raise StudyError(
            f"{reason}. It records which images this study has seen: restore it from a copy, or "
            "give the study another study.name and ranges of images that it has not seen"
        )


class Openings:
    """The openings of a study.

    Args:
        run_dir: Its run folder.

    Raises:
        StudyError: The record is damaged.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / OPENINGS_FILE
        self._record = _Record.load(self._path) if self._path.exists() else _Record()

    def open(self, part: Part, spec: SplitSpec, choices: str) -> int:
        """Record that a range is opened; call it before anything of it is scored.

        Args:
            part: The part that the range plays.
            spec: The range.
            choices: Digest of everything that was chosen before, 32 hex digits.

        Returns:
            Which opening of this part it is, from 1. One with the same range and choices is the
            same opening, so a resumed study goes on.

        Raises:
            StudyError: It overlaps a range that was opened with other choices or as the other
                part, or a certify range of another extent; says which range is free. Or the
                record cannot be written.
        """
        now = Opening(part=part, range=spec, choices=choices, date=f"{datetime.now(UTC):%Y-%m-%d}")
        mine = [opening for opening in self._record.openings if opening.part == part]
        for number, earlier in enumerate(mine, 1):
            if earlier.same(now):
                return number
        spent = [earlier for earlier in self._record.openings if earlier.spends(now)]
        if spent:
            raise StudyError(_refusal(now, spent[0], self._record.openings))
        record = _Record(openings=(*self._record.openings, now))
        try:
            write_json(self._path, record.model_dump(mode="json"))
        except OSError as error:
            raise StudyError(f"{self._path}: cannot be written ({error.strerror})") from error
        self._record = record
        return len(mine) + 1


def _refusal(now: Opening, earlier: Opening, openings: Sequence[Opening]) -> str:
    """Say why a range cannot be opened, and which can."""
    key, old = f"task.{now.part}", earlier.range
    if earlier.part != now.part:
        why = f"as the {earlier.part} split"
    elif earlier.choices != now.choices:
        why = "with other choices"
    else:
        why = "as another range, and more images after a look need images not seen before"
    few, mend = old.questions_per_image, ""
    if few != now.range.questions_per_image:
        mend = (
            f"leave {key}.questions_per_image out"
            if few is None
            else f"set {key}.questions_per_image = {few}"
        )
        mend += " again, since ranges of another number cannot be compared, and "
    of_split = [o.range for o in openings if o.range.split == old.split]
    free = max(each.end for each in of_split if each.questions_per_image == few)
    if free == sys.maxsize:
        more = "no image is left; name another split"
    else:
        more = f"give --{now.part}-offset {free} for images not seen yet"
    count = "all" if old.samples is None else old.samples
    return (
        f"{key}: {count} samples of split {old.split!r} from {old.offset} on were opened on "
        f"{earlier.date} {why}; {mend}{more}"
    )
