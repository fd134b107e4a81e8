"""``table``: your own images and questions, in one file or in a file a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from resprune.errors import StudyError, near_names
from resprune.validation import shown
from tuner.imagefile import SUFFIXES
from tuner.paths import FolderName
from tuner.tasks.base import register
from tuner.tasks.readers import FILES, TEXT_FILES, Raw, dataset_rows, read_file
from tuner.tasks.rows import Encoded
from tuner.tasks.table import ALL, Divide, ScoredOptions, Table

KEYS = (
    "id", "image", "images", "question", "answer", "answers", "choices", "group", "split",
    "answer_format",
)  # fmt: skip


class OwnOptions(ScoredOptions):
    """Keys of ``table``.

    Attributes:
        data: A file of rows (``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``, or ``.txt`` with one
            question a line, each asked of every image), or a folder with such a file a split;
            relative to the study file.
        images: Folder of the images; that of ``data`` where None.
    """

    data: FolderName = Field(min_length=1)
    images: FolderName | None = None


@register
class Own(Table):
    """A table with these columns, all but the image and the question optional.

    ``image`` (a path inside the folder of images) or ``images`` (several), ``question``,
    ``answer`` or ``answers``, ``choices``, ``group``, ``id``, ``answer_format`` (of this row
    alone), ``split``. Others are not read. One file without a column ``split`` is divided by image.
    """

    name = "table"
    options = OwnOptions
    _options: OwnOptions
    _folder: Path

    def __init__(self, options: OwnOptions) -> None:
        """Set the task up.

        Raises:
            StudyError: No such file or folder.
        """
        super().__init__(options)
        self._data = Path(options.data).resolve()
        self.source = str(self._data)
        if not self._data.exists():
            raise StudyError(f"task.data: {options.data}: no such file or folder")
        if self._data.is_file() and self._data.suffix.lower() not in FILES:
            raise StudyError(
                f"task.data: {options.data}: not a table; give a file that ends in one of "
                f"{', '.join(FILES)}"
            )
        beside = self._data if self._data.is_dir() else self._data.parent
        self._folder = beside if options.images is None else Path(options.images).resolve()
        if not self._folder.is_dir():
            raise StudyError(f"task.images: {options.images}: no such folder")
        self._whole: Raw | None = None

    @property
    def splits(self) -> list[str]:
        """Names of the splits that are there, those that one is divided into included."""
        return [*self.real_splits, *(self.division.shares if self.division is not None else ())]

    @property
    def real_splits(self) -> list[str]:
        """Names of the splits that are there; one file without any is divided from then on."""
        if self._data.is_dir():
            return sorted(self._files())
        raw = self._file()
        if "split" in raw.columns:
            named = (raw.cells(i).get("split") for i in range(raw.total))
            return list(dict.fromkeys(str(name) for name in named if name is not None))
        if self.division is None:
            self.division = Divide()
        return [ALL]

    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in sorted(self._data.iterdir()):
            if path.suffix.lower() not in FILES or not path.is_file():
                continue
            if path.stem in found:
                raise StudyError(
                    f"{self._data}: split {path.stem!r} is {found[path.stem].name} and "
                    f"{path.name}; remove one"
                )
            found[path.stem] = path
        return found

    def _file(self) -> Raw:
        if self._whole is None:
            self._whole = self._of(self._data)
        return self._whole

    def _of(self, path: Path) -> Raw:
        if path.suffix.lower() in TEXT_FILES:
            images = image_names(self._folder) if path.suffix.lower() == ".txt" else ()
            if path.suffix.lower() == ".txt" and not images:
                raise StudyError(
                    f"{self._folder}: no images ({', '.join(SUFFIXES)}) to ask the questions of "
                    f"{path.name} about; give their folder as task.images (--images)"
                )
            raw = read_file(path, images)
        else:
            raw = _parquet(path)
        check_columns(raw)
        return raw

    def home_of(self, split: str) -> str:
        """Return the split that is there; reads the file, which says whether it is divided."""
        _ = self.real_splits
        return super().home_of(split)

    def _read(self, split: str) -> Raw:
        real = self.real_splits
        if split not in real:
            known = self.splits
            kind = "file of the folder" if self._data.is_dir() else "value of the column 'split'"
            if known[:1] == [ALL]:
                kind = "part of the file"
            raise StudyError(
                f"{self._data}: no split {split!r} (a split is a {kind}). "
                f"{near_names(split, known)}"
            )
        if self._data.is_dir():
            return self._of(self._files()[split])
        raw = self._file()
        if real == [ALL]:
            return raw
        rows = [i for i in range(raw.total) if str(raw.cells(i).get("split")) == split]
        return raw.take(rows, f"{raw.where}: split {split}")

    def _columns(self, raw: Raw) -> Mapping[str, str]:
        return {name: name for name in KEYS}

    def _picked(self, cells: Mapping[str, Any], place: str) -> Mapping[str, Any]:
        return {**cells, "answers": cells.get("answers", cells.get("answer"))}

    def _image_cells(self, raw: Raw, row: int) -> list[Encoded]:
        place = raw.place(row)
        there = [column for column in ("image", "images") if column in raw.columns]
        given = {column: raw.image(row, column) for column in there}
        given = {column: cell for column, cell in given.items() if cell is not None}
        if len(given) != 1:
            raise StudyError(
                f"{place}: both 'image' and 'images'; keep one"
                if given
                else f"{place}: 'image' is missing or no text (None)"
            )
        ((column, cell),) = given.items()
        if column == "image":
            return [self._encoded(cell, partial(raw.image, row, column), place)]
        cells = [cell] if isinstance(cell, str) else cell
        if not isinstance(cells, list) or not cells:
            raise StudyError(f"{place}: 'images' is no list of one or more ({shown(cell)})")
        return [
            self._encoded(one, partial(_item, raw, row, column, i), place)
            for i, one in enumerate(cells)
        ]

    def _encoded(self, cell: Any, read: Callable[[], Any], place: str) -> Encoded:
        if isinstance(cell, Mapping) or (isinstance(cell, str | bytes) and cell.strip()):
            return Encoded(place, read, self._folder)
        raise StudyError(f"{place}: 'image' is missing or no text ({shown(cell)})")


def _item(raw: Raw, row: int, column: str, item: int) -> Any:
    cell = raw.image(row, column)
    return cell if isinstance(cell, str) else cell[item]


def check_columns(raw: Raw) -> None:
    """Check that a table has images and questions, and no column that is one misspelt.

    Raises:
        StudyError: It has not; near names are suggested.
    """
    columns = [name for name in raw.columns if isinstance(name, str)]
    if not raw.total:
        return
    strangers = [name for name in columns if name not in KEYS]
    for needed in (("image", "images"), ("question",)):
        if not set(needed) & set(columns):
            raise StudyError(
                f"{raw.where}: no column {' or '.join(map(repr, needed))}. "
                f"{near_names(needed[0], columns)}"
            )
    for name in strangers:
        near = get_close_matches(name, KEYS, n=1, cutoff=0.8)
        if near and near[0] not in columns:
            raise StudyError(
                f"{raw.where}: unknown column {name!r}. Did you mean {near[0]!r}? Rename it, so "
                "that it is not taken for that"
            )


def image_names(folder: Path) -> list[str]:
    """Return the paths of the image files in a folder and below, sorted, relative to it."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(str(path.relative_to(folder)) for path in files if path.is_file())


def _parquet(path: Path) -> Raw:
    import datasets

    try:
        data = datasets.Dataset.from_parquet(str(path))
    except Exception as error:  # arrow's and datasets' errors have no class in common
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise StudyError(f"{path}: cannot be read as parquet ({reason})") from None
    images = [name for name in ("image", "images") if name in data.column_names]
    return dataset_rows(data, str(path), images)
