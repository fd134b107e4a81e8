"""``hub-vqa``: questions about images from a data set of the hub, or of a folder.

No code of the data set is run, and its rows stay on disk, memory-mapped.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from resprune.errors import StudyError, near_names
from tuner.paths import FolderName, NameBelow
from tuner.scoring import metrics
from tuner.tasks.base import register
from tuner.tasks.readers import Raw, dataset_rows, load_split
from tuner.tasks.table import Columns, ScoredOptions, Table, TableOptions


class DataOptions(TableOptions):
    """Keys of every task that is a data set.

    Attributes:
        config: Configuration of the data set.
        revision: Commit, tag or branch of the data set.
        stream: Read the first rows of a split alone, so many, without downloading the rest.
    """

    config: NameBelow | None = None
    revision: NameBelow | None = None
    stream: int | None = Field(default=None, ge=1)


class HubOptions(DataOptions, ScoredOptions):
    """Keys of ``hub-vqa``.

    Attributes:
        dataset: A hub id (``user/name``), or a folder of parquet, JSON lines or CSV files named by
            split, of images with ``metadata`` files, or of what ``save_to_disk`` wrote; relative
            to the study file.
        columns: Which columns of the data set hold what.
        question_transform: ``none`` or ``capitalize`` (first letter upper, the rest lower).
    """

    dataset: FolderName
    columns: Columns = Columns()
    scorer: str = "vqa"
    question_transform: Literal["capitalize", "none"] = "none"


class Dataset(Table):
    """A task whose rows ``datasets`` reads; a subclass says what its columns hold."""

    options: ClassVar[type[DataOptions]] = DataOptions
    _options: DataOptions

    def __init__(self, options: DataOptions) -> None:
        """Set the task up.

        Raises:
            StudyError: A data set that is neither a folder nor a hub id.
        """
        super().__init__(options)
        name = self.source = self._data_set()
        self.local = Path(name).is_dir()
        self._folder = Path(name).resolve() if self.local else None
        if not self.local and (name.count("/") != 1 or name.startswith((".", "/"))):
            raise StudyError(
                f"task.dataset: {name!r} is no folder and no hub id of the form user/name"
            )

    @abstractmethod
    def _data_set(self) -> str:
        """Return the hub id or folder."""

    @abstractmethod
    def _named_columns(self) -> Columns:
        """Return which columns hold what."""

    def _columns(self, raw: Raw) -> Mapping[str, str]:
        columns = self._named_columns().model_dump(exclude_none=True)
        needed = metrics.get(self._options.metric).needs_gold
        if not needed and columns["answers"] not in raw.columns:
            del columns["answers"]
        for column in columns.values():
            if column not in raw.columns:
                raise StudyError(
                    f"{raw.where}: task.columns: no column {column!r}. "
                    f"{near_names(column, raw.columns)}"
                )
        return columns

    def _read(self, split: str) -> Raw:
        return self._open(split, self._options.config)

    def _open(self, split: str, config: str | None) -> Raw:
        """Open a split of a configuration; in a folder a configuration may be a folder below."""
        options, source = self._options, self.source
        below = config if config is not None and (Path(source) / config).is_dir() else None
        if below is not None:
            source, config = str(Path(source) / below), None
        data = load_split(source, split, options.stream, name=config, revision=options.revision)
        image = self._named_columns().image
        images = [image] if image in data.column_names else []
        raw = dataset_rows(data, f"{self.source}: {split}", images)
        return raw if below is None else replace(raw, image=partial(_below, raw, below))


def _below(raw: Raw, folder: str, row: int, column: str) -> Any:
    """Read an image cell of a table in a folder below, whose paths begin there."""
    cell = raw.image(row, column)
    return f"{folder}/{cell}" if isinstance(cell, str) else cell


@register
class HubVqa(Dataset):
    """A data set whose columns, scorer and prompt the study names."""

    name = "hub-vqa"
    options = HubOptions
    _options: HubOptions

    def _data_set(self) -> str:
        return self._options.dataset

    def _named_columns(self) -> Columns:
        return self._options.columns

    def _transform(self, question: str) -> str:
        capitalize = self._options.question_transform == "capitalize"
        return question.capitalize() if capitalize else question

    def _picked(self, cells: Mapping[str, Any], place: str) -> Mapping[str, Any]:
        return {name: cell for name, cell in cells.items() if cell != ""}
