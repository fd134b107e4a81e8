"""What a pydantic error says to the person who edited the file: place, value, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from resprune.errors import near_names

_SHOWN = 80  # characters of a wrong value that a message repeats
_LISTED = 20  # wrong keys that a message lists


class StrictModel(BaseModel):
    """Base of what is read from files: no unknown keys, no coercion, immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )


def explain(error: ValidationError, cls: type[BaseModel]) -> str:
    """Say what is wrong with every wrong key.

    Args:
        error: What pydantic raised.
        cls: The model that it raised it for.

    Returns:
        The key's path, the value, and what is allowed (near names where it is a name); of several
        wrong keys the others below, a line each. Of what is wrong within one key of one table the
        first is said, since one slip there often makes several errors.
    """
    first: dict[tuple[int | str, ...], Any] = {}
    for problem in error.errors(include_url=False):
        first.setdefault(problem["loc"][:2], problem)
    problems = list(first.values())
    texts = dict.fromkeys(_said(problem, cls) for problem in problems[:_LISTED])
    rest = len(problems) - _LISTED
    return "\n  ".join([*texts, *([f"and {rest:,} more"] if rest > 0 else [])])


def _said(problem: Any, cls: type[BaseModel]) -> str:
    place = key_path(problem["loc"])
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        name = str(problem["loc"][-1])
        return f"unknown key {place!r}. {near_names(name, _fields_at(cls, problem['loc']))}"
    if kind == "missing":
        return f"key {place!r} is missing"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"{place}: unknown value {shown(value)}. {near_names(str(value)[:_SHOWN], allowed)}"
    if kind == "value_error":
        return f"{place}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
    return f"{place or 'the file'}: {problem['msg']}, not {shown(value)}"


def without(data: Any, places: Sequence[tuple[int | str, ...]]) -> Any:
    """Return a copy of plain data with the keys at the given places left out."""
    here = {place[0] for place in places if len(place) == 1}

    def below(part: int | str) -> list[tuple[int | str, ...]]:
        return [place[1:] for place in places if len(place) > 1 and place[0] == part]

    if isinstance(data, dict):
        return {key: without(data[key], below(key)) for key in data if key not in here}
    if isinstance(data, list | tuple):
        return [without(value, below(i)) for i, value in enumerate(data) if i not in here]
    return data


def key_path(place: Sequence[int | str]) -> str:
    """Return a place as a person writes it, for example ``budgets[0].alpha``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """Return a value as a message repeats it: its repr, cut short."""
    if isinstance(value, str | bytes):
        value = value[:_SHOWN]
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested a thousand deep, or thousands of digits
        text = f"a {type(value).__name__} too deep or too long to show"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _fields_at(cls: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Return the keys that are known where an unknown one was found."""
    for part in place[:-1]:
        if isinstance(part, str) and part in cls.model_fields:
            cls = next(_models(cls.model_fields[part].annotation), cls)
    return list(cls.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
