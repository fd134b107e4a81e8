"""Numpy arrays as fields of pydantic models: JSON lists whose every number is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import FailFast, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_MAX_ROWS = 100_000


@dataclass(frozen=True)
class _Listed:
    """Reads an array from a checked JSON list, and writes it as one."""

    items: Any
    dtype: type[np.generic]

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            _plain,
            core_schema.no_info_after_validator_function(
                self._array, handler.generate_schema(self.items)
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(_plain),
        )

    def _array(self, value: list[Any]) -> npt.NDArray[Any]:
        if len({len(row) for row in value if isinstance(row, list)}) > 1:
            raise ValueError("rows have unequal lengths")
        return np.array(value, dtype=self.dtype)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


_LIST = (FailFast(), Field(max_length=_MAX_ROWS))
# bounded, so that no product of what a file holds can overflow
_Numbers = Annotated[list[Annotated[float, Field(ge=-1e9, le=1e9)]], *_LIST]
_Indices = Annotated[list[Annotated[int, Field(ge=-1, lt=_MAX_ROWS)]], *_LIST]

Vector = Annotated[Floats, _Listed(_Numbers, np.float64)]
"""(n,) numbers."""
Matrix = Annotated[Floats, _Listed(Annotated[list[_Numbers], *_LIST], np.float64)]
"""(n, m) numbers."""
Indices = Annotated[Ints, _Listed(_Indices, np.int64)]
"""(n,) indices; -1 for none."""
Pairs = Annotated[Ints, _Listed(Annotated[list[_Indices], *_LIST], np.int64)]
"""(n, 2) indices."""


def expect(key: str, array: npt.NDArray[Any], *shape: int) -> None:
    """Raise a ValueError that names the key where an array has another shape."""
    if array.shape != shape:
        wanted, found = (" x ".join(map(str, size)) for size in (shape, array.shape))
        raise ValueError(f"{key}: expected {wanted} numbers, got {found}")


def expect_within(key: str, array: Ints, low: int, high: int) -> None:
    """Raise a ValueError that names the key where an index lies beyond ``low`` to ``high``."""
    wrong = array[(array < low) | (array > high)]
    if wrong.size:
        raise ValueError(f"{key}: expected integers {low} to {high}, got {wrong[0]}")
