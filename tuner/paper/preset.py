"""A table of the paper as a file: its rows, budgets, benchmarks, and the figures that are known."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

from pydantic import Field, ValidationError, model_validator

from resprune import methods
from resprune.errors import StudyError, near_names
from resprune.setting import Setting
from resprune.validation import StrictModel, explain

_FOLDER = resources.files("studies") / "paper"


class Model(StrictModel):
    """A released model and the embedded one that stands for it.

    Attributes:
        id: Hub id.
        family: Backbone family.
        nano: Embedded model of that family.
        budgets: Tokens kept, counts or shares of each image.
        nano_budgets: The same on the embedded model.
    """

    id: str
    family: str
    nano: str
    budgets: tuple[int | float, ...] = Field(min_length=1, strict=False)
    nano_budgets: tuple[int | float, ...] = Field(min_length=1, strict=False)


class Row(StrictModel):
    """One line of a table.

    Attributes:
        label: What it is called.
        method: Its method.
        options: The method's options; what is left out is the family's own setting of ResPrune, or
            the method's default.
        paper: The paper's figures on released weights, by budget, as far as they are known: percent
            of the unpruned model's mean over the benchmarks.
    """

    label: str
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    paper: dict[str, float] = Field(default_factory=dict)


class Benchmark(StrictModel):
    """One column of a table.

    Attributes:
        name: What it is called.
        task: The ``[task]`` table of a study on it.
    """

    name: str
    task: dict[str, Any]


class Preset(StrictModel):
    """A table of the paper.

    Attributes:
        table: Its name in the paper.
        title: What it shows.
        known: Where its settings and figures are known from.
        models: One or more models.
        rows: Its lines, the unpruned model apart.
        benchmarks: Its columns.
    """

    table: str
    title: str
    known: str
    models: tuple[Model, ...] = Field(min_length=1, strict=False)
    rows: tuple[Row, ...] = Field(min_length=1, strict=False)
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1, strict=False)

    @model_validator(mode="after")
    def _known_methods(self) -> Preset:
        for row in self.rows:
            if row.method not in methods.names():
                raise ValueError(
                    f"row {row.label!r}: unknown method {row.method!r}. "
                    f"{near_names(row.method, methods.names())}"
                )
            Setting.of(row.method, 5, **row.options)
        return self


def preset_names() -> list[str]:
    """Return the names of the shipped tables."""
    files = (file.name for file in _FOLDER.iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def load_preset(name: str) -> Preset:
    """Read a shipped table.

    Raises:
        StudyError: No table of that name, or a damaged file.
    """
    if name not in preset_names():
        raise StudyError(f"unknown table {name!r}. {near_names(name, preset_names())}")
    text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    try:
        data = tomllib.loads(text)
        shared = tomllib.loads((_FOLDER / "benchmarks" / "all.toml").read_text(encoding="utf-8"))
        return Preset.model_validate({**shared, **data})
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        problem = explain(error, Preset) if isinstance(error, ValidationError) else str(error)
        raise StudyError(f"studies/paper/{name}.toml: {problem}") from None
