"""Checked reading of untrusted JSON: every error names the place in the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from resprune.errors import ConfigError, near_names


class Place:
    """A JSON object and where it stands, for messages such as ``FILE: budgets[0].bias: ...``.

    Args:
        data: The parsed JSON value; must be an object.
        where: File and path within it.

    Raises:
        ConfigError: It is no object.
    """

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: expected a JSON object, found {type(data).__name__}")
        self.data: dict[str, Any] = data
        self.where = where

    def error(self, key: str, problem: str) -> ConfigError:
        """Make an error about one key, with the remedy."""
        return ConfigError(f"{self.where}: {key}: {problem}; export the config again")

    def get(self, key: str) -> Any:
        """Return a value that must be present."""
        if key not in self.data:
            raise self.error(key, "missing")
        return self.data[key]

    def no_others(self, keys: Iterable[str]) -> None:
        """Refuse keys beyond these."""
        allowed = set(keys)
        for key in self.data:
            if key not in allowed:
                raise ConfigError(
                    f"{self.where}: unknown key {key!r}. {near_names(str(key), allowed)}"
                )

    def choice(self, key: str, allowed: Iterable[str]) -> str:
        """Return one of the allowed names."""
        value = self.get(key)
        if not isinstance(value, str) or value not in set(allowed):
            raise self.error(key, f"{_short(value)}. {near_names(str(value), allowed)}")
        return value

    def names(self, key: str, most: int) -> tuple[str, ...]:
        """Return a list of distinct strings, not empty."""
        value = self.get(key)
        if not isinstance(value, list) or not 0 < len(value) <= most:
            raise self.error(key, f"expected a list of 1 to {most} names, got {_short(value)}")
        if not all(isinstance(name, str) for name in value) or len(set(value)) != len(value):
            raise self.error(key, "expected distinct names")
        return tuple(value)

    def number(self, key: str, low: float, high: float) -> float:
        """Return a number within [low, high]."""
        value = self.get(key)
        if not _is_number(value) or not low <= value <= high:
            raise self.error(
                key, f"expected a number from {low:g} to {high:g}, got {_short(value)}"
            )
        return float(value)

    def places(self, key: str, most: int) -> Iterator[Place]:
        """Yield the objects of a list, each with its own place."""
        value = self.get(key)
        if not isinstance(value, list) or not 0 < len(value) <= most:
            raise self.error(key, f"expected a list of 1 to {most} objects, got {_short(value)}")
        for i, item in enumerate(value):
            yield Place(item, f"{self.where}: {key}[{i}]")

    def numbers(
        self, key: str, shape: tuple[int | None, ...], *, most: int = 10_000
    ) -> npt.NDArray[np.float64]:
        """Return numbers within +-1e9 of a shape, in which None stands for at most `most`."""
        flat, found = self._flat(key, shape, most)
        for value in flat:
            if not _is_number(value):
                raise self.error(key, f"expected numbers within +-1e9, got {_short(value)}")
        return np.array(flat, dtype=np.float64).reshape(found)

    def integers(
        self, key: str, shape: tuple[int | None, ...], *, low: int, high: int, most: int = 10_000
    ) -> npt.NDArray[np.int64]:
        """Return integers of a shape within [low, high]."""
        flat, found = self._flat(key, shape, most)
        for value in flat:
            if type(value) is not int or not low <= value <= high:
                raise self.error(key, f"expected integers {low} to {high}, got {_short(value)}")
        return np.array(flat, dtype=np.int64).reshape(found)

    def _flat(
        self, key: str, shape: tuple[int | None, ...], most: int
    ) -> tuple[list[Any], tuple[int, ...]]:
        value = self.get(key)
        length = len(value) if isinstance(value, list) else -1
        wanted = " x ".join("any" if n is None else str(n) for n in shape)
        if length < 0 or length > max(most, *(n or 0 for n in shape)):
            raise self.error(key, f"expected {wanted} numbers, got {_short(value)}")
        if shape[0] is not None and length != shape[0]:
            raise self.error(key, f"expected {wanted} numbers, got {length} rows")
        if len(shape) == 1:
            return value, (length,)
        width = shape[1]
        for row in value:
            if not isinstance(row, list) or len(row) != width:
                raise self.error(key, f"expected {wanted} numbers, got a row {_short(row)}")
        return [item for row in value for item in row], (length, int(width or 0))


def _is_number(value: Any) -> bool:
    # bounded, so that no product of what a file holds can overflow; NaN compares false
    return type(value) in (int, float) and -1e9 <= value <= 1e9


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
