"""Configs of schema version 1, which knew one method a file: read, and turned into version 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, field_validator, model_validator

from resprune import methods
from resprune.alpha import AlphaPredictor
from resprune.budget import Count, Ratio
from resprune.options import ALPHA_MAX, Normalization, Pooling, Positions, SeedStrategy
from resprune.setting import PREDICTOR_FILE
from resprune.validation import StrictModel, shown


def _check_budget(value: object) -> Count | Ratio:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Count(count=value)
    if isinstance(value, float) and 0.0 < value <= 1.0:
        return Ratio(ratio=value)
    raise ValueError(
        f"{shown(value)} is not a budget; write a count of visual tokens (a whole number, 1 or "
        "more) or a ratio (a decimal number over 0, up to 1.0)"
    )


def _check_alpha(value: object) -> object:
    if value == "adaptive":
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= ALPHA_MAX:
        return float(value)
    raise ValueError(
        f"{shown(value)} is not an alpha; write a number from 0 to {ALPHA_MAX:g}, or 'adaptive'"
    )


_Budget = Annotated[Count | Ratio, BeforeValidator(_check_budget)]


class _Entry(StrictModel):
    budget: _Budget
    alpha: Annotated[float | Literal["adaptive"], BeforeValidator(_check_alpha)]
    seed_strategy: SeedStrategy = "l2_norm"


class Schema1(StrictModel):
    """The file as version 1 wrote it; ``backbone`` and ``nouns`` are as in version 2."""

    schema_version: int
    library_version: str = ""
    backbone: Any = None
    method: str = "resprune"
    budgets: Annotated[tuple[_Entry, ...], FailFast()] = Field(
        min_length=1, max_length=1000, strict=False
    )
    default_budget: _Budget
    pooling: Pooling = "max"
    normalization: Normalization = "minmax"
    eps: float = Field(default=0.01, gt=0.0, le=1.0)
    positions: Positions = "keep"
    nouns: Any = Field(default_factory=dict)
    untested: bool = False

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        return methods.get(value).name

    @model_validator(mode="after")
    def _table_holds_together(self) -> Self:
        seen = [entry.budget for entry in self.budgets]
        listed = ", ".join(map(str, seen))
        if len(set(seen)) != len(seen):
            raise ValueError(f"budgets lists a budget twice ({listed}); keep one entry a budget")
        if self.default_budget not in seen:
            raise ValueError(
                f"default_budget {self.default_budget} is not in the table; it lists {listed}"
            )
        return self

    @property
    def adaptive(self) -> list[Count | Ratio]:
        """Budgets whose alpha is chosen for each prompt."""
        return [entry.budget for entry in self.budgets if entry.alpha == "adaptive"]

    def upgraded(self, predictor: AlphaPredictor | None) -> dict[str, Any]:
        """Return the same config in schema version 2.

        Args:
            predictor: The alpha predictor, which knows what an adaptive alpha chooses from.

        Returns:
            Plain data.
        """
        return {
            "schema_version": 2,
            "library_version": self.library_version,
            "backbone": self.backbone,
            "nouns": self.nouns,
            "untested": self.untested,
            "default": self.default_budget,
            "table": [self._policy(entry, predictor) for entry in self.budgets],
        }

    def _policy(self, entry: _Entry, predictor: AlphaPredictor | None) -> dict[str, Any]:
        setting = self._setting(entry)
        if entry.alpha != "adaptive":
            setting["options"] |= self._own({"alpha": entry.alpha})
            return setting
        assert predictor is not None
        arms = [
            {**setting, "options": {**setting["options"], **self._own(arm)}}
            for arm in predictor.arms
        ]
        if all(arm == arms[0] for arm in arms):
            return arms[0]
        return {
            "arms": arms,
            "fallback": predictor.fallback(entry.budget),
            "predictor": PREDICTOR_FILE,
        }

    def _setting(self, entry: _Entry) -> dict[str, Any]:
        relevance = {
            "pooling": self.pooling,
            "normalization": self.normalization,
            "eps": self.eps,
        }
        written = {"seed_strategy": entry.seed_strategy, "relevance": relevance}
        return {
            "method": self.method,
            "options": self._own(written),
            "budget": entry.budget,
            "positions": self.positions,
        }

    def _own(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the options that the method has; the others did nothing."""
        own = methods.get(self.method).options.model_fields
        return {name: value for name, value in options.items() if name in own}
