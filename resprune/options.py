"""What methods are told: their options, with the range of each that a study may search.

Plain data: the tuner turns a ``Search`` into a search space, the library only carries it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError

from resprune.errors import ConfigError
from resprune.validation import StrictModel, explain

ALPHA_MAX = 16.0

SeedStrategy = Literal["cls_attention", "received_attention", "l2_norm", "relevance", "none"]
Pooling = Literal["max", "mean", "pooled"]
Normalization = Literal["minmax", "shift", "clip"]
Positions = Literal["keep", "compact"]


@dataclass(frozen=True)
class Search:
    """How a study searches one option.

    Attributes:
        low: Least value of a number.
        high: Greatest value of a number.
        step: Resolution of a number.
        choices: Values of a name, or True and False.
        per_prompt: Whether an adaptive policy may choose it for each prompt.
        curve: Whether a study scores its curve around the chosen setting.
        asked: Whether it is searched only where a study names it; else its default holds.
    """

    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str | bool, ...] = ()
    per_prompt: bool = False
    curve: bool = False
    asked: bool = False


class Options(StrictModel):
    """Base of a method's options: frozen, hashable, nothing unknown."""


class Relevance(StrictModel):
    """How relevance is made from the nouns' cosines; options of methods that read relevance.

    Attributes:
        pooling: How it pools over nouns; see ``resprune.relevance_scores``.
        normalization: How it is normalised per image.
        eps: Its floor.
    """

    pooling: Annotated[Pooling, Search(choices=("max", "mean", "pooled"), asked=True)] = "max"
    normalization: Annotated[
        Normalization, Search(choices=("minmax", "shift", "clip"), asked=True)
    ] = "minmax"
    eps: float = Field(default=0.01, gt=0.0, le=1.0)


_O = TypeVar("_O", bound=BaseModel)


def searchable(options: type[BaseModel]) -> dict[str, Search]:
    """Return the options that a study may search.

    Args:
        options: Options of a method.

    Returns:
        By name; those of nested tables (``relevance``) under their own name.
    """
    return {name: search for name, search, _ in _leaves(options)}


def is_whole(options: type[BaseModel], name: str) -> bool:
    """Say whether a searchable option takes whole numbers alone."""
    kind: Any = options
    for part in path_of(options, name):
        kind = kind.model_fields[part].annotation
    return int in (kind, *get_args(kind))


def value_of(options: BaseModel, name: str) -> Any:
    """Return a searchable option's value, wherever it is nested."""
    for part in path_of(type(options), name):
        options = getattr(options, part)
    return options


def with_values(options: _O, values: dict[str, Any]) -> _O:
    """Return options with some searchable or top-level values replaced, checked again.

    Args:
        options: Options of a method.
        values: New values by name; names of nested tables' options stand for themselves.

    Returns:
        New options.

    Raises:
        ConfigError: A name that the method does not have (near names), or a value out of range.
    """
    data = options.model_dump()
    nested = searchable(type(options))
    for name, value in values.items():
        *parts, last = path_of(type(options), name) if name in nested else (name,)
        place = data
        for part in parts:
            place = place[part]
        place[last] = value.model_dump() if isinstance(value, BaseModel) else value
    return read_options(type(options), data)


def read_options(cls: type[_O], data: Any, where: str = "options") -> _O:
    """Validate a method's options.

    Raises:
        ConfigError: An unknown option (near names), or a value out of range; names the place.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, cls)}") from None


def path_of(options: type[BaseModel], name: str) -> tuple[str, ...]:
    """Return the path of a searchable option, such as ``("relevance", "pooling")``."""
    for found, _, path in _leaves(options):
        if found == name:
            return path
    raise KeyError(name)


def _leaves(options: type[BaseModel]) -> Iterator[tuple[str, Search, tuple[str, ...]]]:
    for name, field in options.model_fields.items():
        search = next((m for m in field.metadata if isinstance(m, Search)), None)
        if search is not None:
            yield name, search, (name,)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for inner, its, path in _leaves(field.annotation):
                yield inner, its, (name, *path)
