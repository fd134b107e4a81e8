"""Rows of a table from files: JSON lines, CSV, plain questions, and what ``datasets`` reads.

A row is a place for messages and its raw cells; what the cells mean is ``tuner.tasks.rows``. No
code of a data set is run.
"""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from resprune.errors import StudyError, near_names
from tuner.problems import all_of

MAX_FILE_BYTES = 2**30
_MAX_LINE = 2**24
_MAX_CELL = 2**22
TEXT_FILES = (".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
FILES = (*TEXT_FILES, ".parquet")


_METADATA = ("jsonl", "csv", "parquet")
_ALIKE = (
    ("validation", "valid", "val", "dev"),
    ("test", "testing", "testdev", "eval", "evaluation"),
    ("train", "training"),
)
_Line = tuple[int, str, dict[str, Any]]
"""Number, place and cells of a row."""


@dataclass(frozen=True)
class Raw:
    """The rows of a table.

    Attributes:
        where: What messages call it.
        total: How many rows.
        columns: Its columns, of all rows.
        place: What messages call a row.
        number: Of a row, unique within the table.
        cells: The cells of a row but its images, without absent ones.
        image: The image cells of a row, read when asked for.
    """

    where: str
    total: int
    columns: Sequence[str]
    place: Callable[[int], str]
    number: Callable[[int], int]
    cells: Callable[[int], Mapping[str, Any]]
    image: Callable[[int, str], Any]

    def take(self, rows: Sequence[int], where: str) -> Raw:
        """Return some of the rows."""
        return Raw(
            where,
            len(rows),
            self.columns,
            lambda i: self.place(rows[i]),
            lambda i: self.number(rows[i]),
            lambda i: self.cells(rows[i]),
            lambda i, column: self.image(rows[i], column),
        )


def read_file(path: Path, images: Sequence[str] = ()) -> Raw:
    """Read a file of rows into memory; its images stay where they are.

    Args:
        path: One of ``TEXT_FILES``.
        images: Names of images that every question of a ``.txt`` file is asked about.

    Raises:
        StudyError: It cannot be read; says what is wrong with every line that cannot.
    """
    kind = path.suffix.lower()
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise StudyError(
                f"{path}: {size:,} bytes, more than the {MAX_FILE_BYTES:,} that are read as text; "
                "write it as parquet, which stays on disk"
            )
        if kind == ".txt":
            rows = list(_questions(path, images))
        else:
            rows = list(_json_rows(path) if kind in (".jsonl", ".ndjson") else _csv_rows(path))
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror})") from None
    columns = list(dict.fromkeys(key for _, _, cells in rows for key in cells))
    return Raw(
        str(path),
        len(rows),
        columns,
        lambda i: rows[i][1],
        lambda i: rows[i][0],
        lambda i: rows[i][2],
        lambda i, column: rows[i][2].get(column),
    )


def _questions(path: Path, images: Sequence[str]) -> Iterator[_Line]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    asked = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, (image, (line, question)) in enumerate(product(images, asked)):
        yield number, f"{path}: line {line}, {image}", {"image": image, "question": question}


def _json_rows(path: Path) -> Iterator[_Line]:
    problems = []
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        number = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            place = f"{path}: line {number}"
            if len(line) == _MAX_LINE:
                raise StudyError(f"{place}: longer than {_MAX_LINE:,} characters; one row a line")
            if not line.strip():
                continue
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as error:  # the former also of endless numbers
                problems.append(f"{place}: not valid JSON ({error}); one object a line")
                continue
            if isinstance(data, dict):
                yield number, place, {key: cell for key, cell in data.items() if cell is not None}
            else:
                problems.append(f"{place}: expected an object, found {type(data).__name__}")
    if problems:
        raise StudyError(all_of(problems, "lines"))


def _csv_rows(path: Path) -> Iterator[_Line]:
    csv.field_size_limit(min(_MAX_CELL, sys.maxsize))
    problems = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise StudyError(f"{path}: line 1: column {twice[0]!r} is named twice; keep one")
            for row in rows:
                place = f"{path}: line {rows.line_num}"
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) > len(header):
                    problems.append(
                        f"{place}: {len(row)} cells for {len(header)} columns; put quotes around a "
                        f"cell that holds {delimiter!r}"
                    )
                    continue
                cells = dict(zip(header, row, strict=False))
                yield rows.line_num, place, {n: _cell(c) for n, c in cells.items() if c.strip()}
        except csv.Error as error:
            problems.append(f"{path}: line {rows.line_num}: not valid CSV ({error})")
    if problems:
        raise StudyError(all_of(problems, "lines"))


def _cell(text: str) -> Any:
    """Read a cell of CSV: a JSON list of texts is that list, anything else the text itself."""
    if text.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(text)
            if isinstance(found, list):
                return found
    return text


def dataset_rows(data: Any, where: str, images: Sequence[str]) -> Raw:
    """Read rows of a ``datasets.Dataset``, which stays on disk, memory-mapped.

    Args:
        data: The data set.
        where: What messages call it.
        images: Columns that hold images; they are read apart from the others.
    """
    own = {}
    for column in images:
        alone = data.select_columns([column])
        encoded = _as_encoded(alone.features[column])
        own[column] = alone if encoded is None else alone.cast_column(column, encoded)
    text = data.select_columns([name for name in data.column_names if name not in images])

    def read(rows: Any, i: int) -> Mapping[str, Any]:
        try:
            row: Mapping[str, Any] = rows[i]
        except Exception as error:  # arrow's and datasets' errors have no class in common
            said = (str(error).strip().splitlines() or [""])[0][:300]
            raise StudyError(
                f"{where}: row {i}: cannot be read ({type(error).__name__}: {said})"
            ) from None
        return row

    def cells(i: int) -> Mapping[str, Any]:
        return {key: cell for key, cell in read(text, i).items() if cell is not None}

    return Raw(
        where,
        len(data),
        list(data.column_names),
        lambda i: f"{where}: row {i}",
        lambda i: i,
        cells,
        lambda i, column: read(own[column], i)[column],
    )


def load_split(source: str, split: str, stream: int | None = None, **where: Any) -> Any:
    """Open a split of a data set of the hub or of a folder.

    A folder may hold parquet, JSON lines or CSV files named by split, images with ``metadata``
    files (imagefolder), or what ``save_to_disk`` wrote. ``datasets`` takes a file named after
    ``val`` or ``dev`` for ``validation``, and is understood so.

    Args:
        source: A folder, or a hub id.
        split: Name of the split.
        stream: Read the first rows alone, so many, as they come; None has the whole on disk.
        **where: ``name`` (configuration) and ``revision`` of ``load_dataset``.

    Raises:
        StudyError: There is none, or it cannot be loaded; a data set script is not run.
    """
    import datasets

    try:
        folder = Path(source)
        if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
            return _saved(folder, split)
        named = _files_of(folder, split)
        if named is not None:
            kind, files = named
            rows = datasets.load_dataset(kind, **files, streaming=stream is not None)
            return _limited(rows, stream)
        builder = datasets.load_dataset_builder(source, **where)
        known = [str(s) for s in builder.info.splits or builder.config.data_files or ()]
        if known:
            split = _known_split(split, known, source)
        rows = datasets.load_dataset(source, split=split, streaming=stream is not None, **where)
        return _limited(rows, stream)
    except StudyError:
        raise
    except Exception as error:  # readers, hub and network have no error class in common
        reason = (str(error).strip().splitlines() or [""])[0][:500]
        raise StudyError(
            f"task.dataset: {source!r} cannot be loaded ({type(error).__name__}: "
            f"{reason}); check the id, task.config and task.revision; without a network, set "
            "HF_HOME to a cache that holds it (and HF_HUB_OFFLINE=1), or task.dataset to a "
            "folder of parquet files, named after their splits"
        ) from error


def _known_split(split: str, known: Sequence[str], source: str) -> str:
    """Return the name that ``datasets`` gives a split of that name."""
    if split in known:
        return split
    for alike in _ALIKE:
        found = [name for name in known if name in alike]
        if split in alike and len(found) == 1:
            return found[0]
    raise StudyError(f"{source}: no split {split!r}. {near_names(split, known)}")


def _files_of(folder: Path, split: str) -> tuple[str, dict[str, Any]] | None:
    """Find a split that is one file or one folder of images of its name, whatever the name is."""
    if Path(split).name != split or "\0" in split:  # it would lead out of the folder
        return None
    for ending, kind in (("jsonl", "json"), ("json", "json"), ("csv", "csv"), ("parquet",) * 2):
        path = folder / f"{split}.{ending}"
        if path.is_file():
            return kind, {"data_files": {split: str(path)}, "split": split}
    if any((folder / split / f"metadata.{ending}").is_file() for ending in _METADATA):
        return "imagefolder", {"data_dir": str(folder / split), "split": "train"}
    return None


def _limited(rows: Any, count: int | None) -> Any:
    """Take the first rows of a stream into memory, images as they are encoded."""
    import datasets

    if count is None:
        return rows
    features = rows.features
    for name, feature in (features or {}).items():
        encoded = _as_encoded(feature)
        if encoded is not None:
            rows = rows.cast_column(name, encoded)
    return datasets.Dataset.from_list(list(rows.take(count)), features=rows.features)


def _as_encoded(feature: Any) -> Any:
    """Return the feature that leaves an image, or a list of images, encoded; None for others."""
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.Image):
        return datasets.List(datasets.Image(decode=False))
    return None


def _saved(folder: Path, split: str) -> Any:
    import datasets

    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise StudyError(f"{folder}: no split {split!r}. {near_names(split, list(saved))}")
        return saved[split]
    name = str(saved.split) if saved.split else "train"
    if split != name:
        raise StudyError(f"{folder}: no split {split!r}. {near_names(split, [name])}")
    return saved
