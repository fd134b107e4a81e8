"""What ``--model_args`` say about pruning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from resprune import methods
from resprune.budget import BudgetLike, Ratio, read_budget
from resprune.config import PruningConfig
from resprune.errors import ConfigError
from resprune.options import searchable, value_of
from resprune.setting import Adaptive, Setting, overridden


@dataclass(frozen=True)
class Pruning:
    """How a model is pruned.

    Attributes:
        config: The pruning config.
        budget: The budget of its table that is evaluated; None is its default.
        options: Options of every call.
    """

    config: PruningConfig
    budget: BudgetLike | None
    options: dict[str, Any]

    @property
    def policy(self) -> Setting | Adaptive:
        """What serves."""
        return overridden(self.config.policy(self.budget), self.options)

    def __str__(self) -> str:
        policy = self.policy
        said = [f"{policy.method} at budget {policy.budget}", f"positions {policy.positions}"]
        if isinstance(policy, Adaptive):
            return ", ".join([*said, f"chosen by prompt among {len(policy.arms)} settings"])
        options = policy.options
        said += [f"{name} {value_of(options, name)}" for name in searchable(type(options))]
        if policy.later is not None:
            said.append(f"then {policy.later.method} at budget {policy.later.budget}")
        return ", ".join(said)


def read_pruning(
    family: str,
    *,
    config: Any = None,
    budget: Any = None,
    alpha: Any = None,
    method: Any = None,
    positions: Any = None,
) -> Pruning | None:
    """Read what is to be evaluated.

    Args:
        family: The model's backbone family.
        config: Folder or hub id of a pruning config.
        budget: A budget of the config's table; without a config, any. One as files have it is
            written as JSON.
        alpha: The method's alpha.
        method: A method with its defaults; None is the paper's setting for the family.
        positions: Position policy, where no config has one.

    Returns:
        None where nothing says how to prune.

    Raises:
        ConfigError: Arguments that do not go together, or a value out of range.
    """
    options: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
    budget = _from_json(budget)
    if config is not None:
        for name, value in (("method", method), ("positions", positions)):
            if value is not None:
                raise ConfigError(
                    f"model_args: {name}={value} beside a config, whose policies have their own; "
                    f"leave out {name}, or config"
                )
        pruning = Pruning(PruningConfig.from_pretrained(str(config)), budget, options)
        _ = pruning.policy  # a budget or an option that it does not have is an error now
        return pruning
    wanted = None if budget is None else read_budget(budget)
    if positions is not None:
        options["positions"] = positions
    if wanted is None and method is None and not options:
        return None
    if wanted is None and (method is None or methods.get(method).stage != "none"):
        given = ", ".join(options) if method is None else f"method={method}"
        raise ConfigError(
            f"model_args: {given} without a budget; say how much is kept, such as budget=64"
        )
    kept = Ratio(ratio=1.0) if wanted is None else wanted
    if method is None:
        return Pruning(PruningConfig.paper_default(family, kept, **options), None, {})
    return Pruning(PruningConfig.single(kept, method=method, **options), None, {})


def _from_json(budget: Any) -> Any:
    if not isinstance(budget, str):
        return budget
    try:
        return json.loads(budget)
    except ValueError:
        return budget
