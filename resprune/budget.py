"""Budgets: how many visual tokens an image keeps. Their one home: what is valid, and the rounding.

Files write ``{"count": 43}``, ``{"ratio": 0.11}`` or ``{"energy": 0.05, "most": 98, "least": 4}``;
a bare whole number is a count and a bare decimal number a ratio, in TOML and in Python. (JSON tools
turn the ratio 1.0 into 1, which is one token, so JSON files write the table.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from resprune.errors import ResPruneError, near_names
from resprune.validation import StrictModel, explain, shown


class Count(StrictModel):
    """Keep this many visual tokens of every image, all of an image that has fewer.

    Attributes:
        count: 1 or more.
    """

    count: int = Field(ge=1)

    def limit(self, tokens: int) -> int:
        """Return how many of an image's ``tokens`` are kept at most: ``min(count, T)``."""
        return min(self.count, tokens)

    def of(self, tokens: int, energies: Sequence[float] | None = None) -> int:
        """Return how many of an image's ``tokens`` are kept."""
        return self.limit(tokens)

    def __str__(self) -> str:
        return str(self.count)


class Ratio(StrictModel):
    """Keep this share of each image's own visual tokens.

    Attributes:
        ratio: Above 0 and at most 1.
    """

    ratio: float = Field(gt=0.0, le=1.0)

    def limit(self, tokens: int) -> int:
        """Return how many of an image's ``tokens`` are kept: ``max(1, round(ratio T))``."""
        return max(1, round(self.ratio * tokens))

    def of(self, tokens: int, energies: Sequence[float] | None = None) -> int:
        """Return how many of an image's ``tokens`` are kept."""
        return self.limit(tokens)

    def __str__(self) -> str:
        return str(self.ratio)


class Energy(StrictModel):
    """Keep visual tokens until little residual energy is left, so that the count follows the image.

    Attributes:
        energy: Share of the image's weighted energy at which the expansion stops, in (0, 1).
        most: Count at which it stops in any case.
        least: Count before which it does not stop.
    """

    energy: float = Field(gt=0.0, lt=1.0)
    most: int = Field(ge=1)
    least: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least {self.least} is over most {self.most}; lower it")
        return self

    def limit(self, tokens: int) -> int:
        """Return how many of an image's ``tokens`` are kept at most."""
        return min(self.most, tokens)

    def of(self, tokens: int, energies: Sequence[float] | None = None) -> int:
        """Return how many of an image's ``tokens`` are kept.

        Args:
            tokens: T.
            energies: Share of energy left after 1, 2, ... picks, ``limit(tokens)`` of them.

        Returns:
            The least count whose share is at most ``energy``, within ``least`` and ``most``.

        Raises:
            ResPruneError: No energies: only a nested method before the LLM has them.
        """
        if energies is None:
            raise ResPruneError(f"the budget {self} needs the energies of a nested method")
        most = self.limit(tokens)
        least = min(self.least, most)
        for k in range(least, most):
            if energies[k - 1] <= self.energy:
                return k
        return most

    def __str__(self) -> str:
        return f"energy {self.energy:g} ({self.least} to {self.most})"


_KINDS: tuple[type[Count] | type[Ratio] | type[Energy], ...] = (Count, Ratio, Energy)


def _read(value: Any) -> Count | Ratio | Energy:
    """Turn a number, a table or a budget into a budget; a ValueError says what may be given."""
    if isinstance(value, Count | Ratio | Energy):
        return value
    if isinstance(value, Mapping):
        names = [next(iter(kind.model_fields)) for kind in _KINDS]
        for kind, name in zip(_KINDS, names, strict=True):
            if name in value:
                try:
                    return kind.model_validate(dict(value))
                except ValidationError as error:
                    raise ValueError(explain(error, kind)) from None
        given = str(next(iter(value), ""))
        raise ValueError(f"{shown(dict(value))} is no budget. {near_names(given, names)}")
    if not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1:
        return Count(count=int(value))  # NumPy's integers too
    if isinstance(value, float) and 0.0 < value <= 1.0:
        return Ratio(ratio=float(value))
    raise ValueError(
        f"{shown(value)} is not a budget; give a count of visual tokens (a whole number, 1 or "
        "more), a ratio (a decimal number over 0, up to 1.0), or a table such as "
        "{ energy = 0.05, most = 98 }"
    )


Budget = Annotated[Count | Ratio | Energy, BeforeValidator(_read)]
"""A budget as files and settings hold it; reads the shorthands."""
BudgetLike = Count | Ratio | Energy | int | float
"""A budget as a caller may write it."""


def read_budget(value: Any) -> Count | Ratio | Energy:
    """Read a budget that a caller gave.

    Args:
        value: A budget, a count (int), a ratio (float), or a mapping as files have it.

    Returns:
        The budget.

    Raises:
        ResPruneError: None of these; the message says what may be given.
    """
    try:
        return _read(value)
    except ValueError as error:
        raise ResPruneError(f"budget: {error}") from None
