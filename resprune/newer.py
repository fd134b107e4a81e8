"""Files of a newer library: keys that only it knows are left out with a warning."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from resprune import methods
from resprune.errors import ResPruneError
from resprune.setting import Setting
from resprune.validation import key_path, without
from resprune.version import __version__

_Place = tuple[int | str, ...]


def is_newer(version: object) -> bool:
    """Say whether a file's ``library_version`` is above this library's."""
    return isinstance(version, str) and _numbers(version) > _numbers(__version__)


def without_newer_keys(data: dict[str, Any], cls: type[BaseModel], where: str) -> dict[str, Any]:
    """Leave out, with one warning, what a newer library wrote and this one does not know.

    Args:
        data: The JSON object, with its ``library_version``; not changed.
        cls: The model that will read it.
        where: Name of the source, for the warning.

    Returns:
        The data, less unknown keys at any depth where a newer library wrote it.
    """
    writer = data.get("library_version")
    unknown = list(_unknown(data, cls, ())) if is_newer(writer) else []
    if not unknown:
        return data
    warnings.warn(
        f"{where}: written by resprune {writer}, newer than this {__version__}; ignoring "
        f"unknown keys {', '.join(key_path(place) for place in unknown)}",
        stacklevel=5,
    )
    known: dict[str, Any] = without(data, unknown)
    return known


def _unknown(data: Any, cls: type[BaseModel], place: _Place) -> Iterator[_Place]:
    """Find the keys of plain data that a model, or one inside it, does not know."""
    if not isinstance(data, Mapping):
        return
    for key, value in data.items():
        here = (*place, key)
        if key not in cls.model_fields:
            yield here
            continue
        kinds = list(_models(cls.model_fields[key].annotation))
        if cls is Setting and key == "options":
            kinds = _options(data.get("method"))
        parts = enumerate(value) if isinstance(value, list | tuple) else [(None, value)]
        for index, part in parts:
            if kinds and isinstance(part, Mapping):
                kind = max(kinds, key=lambda each: len(each.model_fields.keys() & part.keys()))
                yield from _unknown(part, kind, here if index is None else (*here, index))


def _options(method: object) -> list[type[BaseModel]]:
    """Return the options of a method; none where it is not known, which is refused later."""
    try:
        return [methods.get(method).options] if isinstance(method, str) else []
    except ResPruneError:
        return []


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _numbers(version: str) -> list[int]:
    release = re.match(r"\d{1,9}(\.\d{1,9})*", version)
    return [int(part) for part in release[0].split(".")] if release else []
