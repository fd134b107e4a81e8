"""The search space of one method: from the method's options and the study to Optuna, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from resprune import methods
from resprune.budget import Count, Energy, Ratio
from resprune.options import Positions
from resprune.setting import Setting
from tuner.search.section import Range, SearchSection, WholeRange

Params = dict[str, bool | float | int | str]


class Space:
    """What a study tries of one method.

    Args:
        search: The study's search table.
        method: One of its methods.
        budgets: The study's budgets.
        positions: The method's own positions on the model, where the study leaves them out.
    """

    def __init__(
        self,
        search: SearchSection,
        method: str,
        budgets: Sequence[Count | Ratio | Energy],
        positions: Positions = "keep",
    ) -> None:
        self.method = method
        self._ranges = search.options[method]
        self._positions = (positions,) if search.positions is None else search.positions
        self._later = search.later if methods.get(method).stage == "tokens" else None
        self.budgets = {label_of(budget): budget for budget in budgets}
        """The budgets by their name in trials."""

    def base(self, budget: Count | Ratio | Energy) -> Setting:
        """Return the setting where nothing is searched: what the study lists first, or default."""
        first = {
            name: values[0]
            for name, values in self._ranges.items()
            if not isinstance(values, Range)
        }
        setting = Setting.of(self.method, budget, positions=self._positions[0], **first)
        return setting.model_copy(update={"later": self._later})

    def ends(self, budget: Count | Ratio | Energy) -> dict[str, list[Setting]]:
        """Return the base with each option at what the study lists, or the ends of its range.

        Args:
            budget: The budget.

        Returns:
            By the option's name.
        """
        base = self.base(budget)
        return {
            name: [
                base.with_options(**{name: value})
                for value in ((values.low, values.high) if isinstance(values, Range) else values)
            ]
            for name, values in self._ranges.items()
        }

    @property
    def positions(self) -> tuple[Positions, ...]:
        """The position policies that are tried."""
        return self._positions

    @property
    def size(self) -> int:
        """How many settings there are at one budget."""
        sizes = [
            round((values.high - values.low) / values.step) + 1
            if isinstance(values, Range)
            else len(values)
            for values in self._ranges.values()
        ]
        return math.prod(sizes) * len(self._positions)

    def label(self, setting: Setting) -> int | float | str:
        """Return the name of a setting's budget in trials."""
        return label_of(setting.budget)

    def distributions(self) -> dict[str, Any]:
        """Return the space as Optuna's distributions; what has one value only is not in it."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        space: dict[str, Any] = {}
        for name, values in self._ranges.items():
            if isinstance(values, WholeRange):
                space[name] = IntDistribution(values.low, values.high, step=values.step)
            elif isinstance(values, Range):
                space[name] = FloatDistribution(values.low, values.high, step=values.step)
            elif len(values) > 1:
                space[name] = CategoricalDistribution(list(values))
        if len(self._positions) > 1:
            space["positions"] = CategoricalDistribution(list(self._positions))
        if len(self.budgets) > 1:
            space["budget"] = CategoricalDistribution(list(self.budgets))
        return space

    def setting(self, params: Mapping[str, Any]) -> Setting:
        """Return the setting that a trial's parameters stand for."""
        values = dict(params)
        budget = self.budgets[values.pop("budget", next(iter(self.budgets)))]
        base = self.base(budget)
        positions = values.pop("positions", base.positions)
        # steps of a float add up to 1.9000000000000001
        options = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in values.items()
        }
        return base.with_options(**options).model_copy(update={"positions": positions})

    def params(self, setting: Setting) -> Params | None:
        """Return the parameters of a trial that tries a setting; None where it lies outside."""
        space = self.distributions()
        found: Params = {}
        for name, values in self._ranges.items():
            value = setting.option(name)
            inside = (
                values.low <= value <= values.high if isinstance(values, Range) else value in values
            )
            if not inside:
                return None
            found[name] = value
        found["positions"] = setting.positions
        found["budget"] = label_of(setting.budget)
        return {name: value for name, value in found.items() if name in space}


def label_of(budget: Count | Ratio | Energy) -> int | float | str:
    """Return a budget's name in trials: a count, a ratio, or text."""
    if isinstance(budget, Count):
        return budget.count
    return budget.ratio if isinstance(budget, Ratio) else str(budget)
