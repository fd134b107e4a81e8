"""Settings and policies: the values that travel from a study's trial to the served model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    FailFast,
    Field,
    SerializeAsAny,
    ValidationError,
    model_serializer,
    model_validator,
)

from resprune import methods
from resprune.alpha import PREDICTOR_FILE
from resprune.budget import Budget, BudgetLike, Energy, Ratio, read_budget
from resprune.errors import ConfigError, near_names
from resprune.options import Options, Positions, read_options, searchable, value_of, with_values
from resprune.validation import StrictModel, explain

_MAX_ARMS = 10_000


def _read_own_options(data: Any) -> Any:
    """Read the options of a table as its method's own."""
    if not isinstance(data, Mapping) or not isinstance(data.get("method"), str):
        return data
    own = methods.get(data["method"]).options
    given = data.get("options", {})
    if isinstance(given, Options) and not isinstance(given, own):
        raise ValueError(
            f"options are {type(given).__name__}; the method {data['method']!r} takes "
            f"{own.__name__}"
        )
    if not isinstance(given, Options):
        given = read_options(own, given)
    return {**data, "options": given}


class Later(StrictModel):
    """What a setting does inside the LLM, after its method has chosen what enters it.

    Attributes:
        method: A method inside the LLM.
        options: The method's own options.
        budget: How many visual tokens of each image are left in the end.
    """

    method: str
    options: SerializeAsAny[Options]
    budget: Budget

    @model_validator(mode="before")
    @classmethod
    def _own_options(cls, data: Any) -> Any:
        return _read_own_options(data)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if methods.get(self.method).stage != "layers":
            raise ValueError(
                f"the method {self.method!r} does not act inside the LLM; give one of "
                f"{', '.join(methods.names('layers'))}"
            )
        if isinstance(self.budget, Energy):
            raise ValueError(f"a stage inside the LLM takes a count or a ratio, not {self.budget}")
        return self


class Setting(StrictModel):
    """One way to prune: a method, its options, a budget and a position policy.

    Attributes:
        method: Name in ``resprune.methods.names()``.
        options: The method's own options.
        budget: How many visual tokens each image keeps.
        positions: Position ids of kept tokens: original (``keep``) or dense (``compact``).
        later: A stage inside the LLM behind a method before it; None where there is none.
    """

    method: str
    options: SerializeAsAny[Options]
    budget: Budget
    positions: Positions = "keep"
    later: Later | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_options(cls, data: Any) -> Any:
        return _read_own_options(data)

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: Any) -> dict[str, Any]:
        """Leave an absent stage out, so that files and digests without one stay as they were."""
        data: dict[str, Any] = handler(self)
        if data.get("later") is None:
            data.pop("later", None)
        return data

    @model_validator(mode="after")
    def _budget_fits_method(self) -> Self:
        method = methods.get(self.method)
        if method.stage == "none" and self.budget != Ratio(ratio=1.0):
            raise ValueError(
                f"the method {self.method!r} keeps everything and is given the budget "
                f"{self.budget}; its one budget is 1.0"
            )
        if isinstance(self.budget, Energy) and not (method.nested and method.stage == "tokens"):
            raise ValueError(
                f"the method {self.method!r} has no energy budgets, which need nested orders; "
                "give a count or a ratio"
            )
        if self.later is not None and method.stage != "tokens":
            raise ValueError(
                f"later: a stage inside the LLM follows a method before it, and {self.method!r} "
                "is none"
            )
        return self

    @property
    def inside(self) -> Later | None:
        """What it does inside the LLM: its own method, or the stage behind it."""
        if methods.get(self.method).stage == "layers":
            return Later(method=self.method, options=self.options, budget=self.budget)
        return self.later

    @classmethod
    def of(
        cls,
        method: str,
        budget: BudgetLike,
        *,
        positions: Positions = "keep",
        **options: Any,
    ) -> Setting:
        """Make a setting from plain values.

        Args:
            method: Name of the method.
            budget: A budget, a count (int) or a ratio (float).
            positions: Position policy.
            **options: The method's options, as ``with_options`` takes them.

        Returns:
            The setting.

        Raises:
            ConfigError: An unknown method or option, or a value out of range.
        """
        own = _with(method, methods.get(method).options(), options)
        return cls._checked(method=method, options=own, budget=budget, positions=positions)

    @classmethod
    def _checked(cls, *, budget: BudgetLike, **data: Any) -> Setting:
        try:
            return cls.model_validate({**data, "budget": read_budget(budget)})
        except ValidationError as error:
            raise ConfigError(f"setting: {explain(error, cls)}") from None

    def with_options(self, **values: Any) -> Setting:
        """Return the setting with some options replaced.

        Args:
            **values: By name; an option of the relevance stands under its own name (``pooling``).

        Raises:
            ConfigError: An option that the method does not have, or a value out of range.
        """
        options = _with(self.method, self.options, values)
        return self.model_copy(update={"options": options})

    def at(self, budget: BudgetLike) -> Setting:
        """Return the setting at another budget.

        Raises:
            ConfigError: No budget, or one that the method does not take.
        """
        return self._checked(**{**dict(self), "budget": budget})

    def then(self, method: str, budget: BudgetLike, **options: Any) -> Setting:
        """Return the setting with a stage inside the LLM behind it.

        Args:
            method: Name of a method inside the LLM.
            budget: Visual tokens left in the end, a count or a share of the image's own.
            **options: The method's options.

        Raises:
            ConfigError: A method that does not act there, or a value out of range.
        """
        own = _with(method, methods.get(method).options(), options)
        later = {"method": method, "options": own, "budget": read_budget(budget)}
        return self._checked(**{**dict(self), "later": later})

    def option(self, name: str) -> Any:
        """Return the value of a searchable option; None where the method has none of that name."""
        return value_of(self.options, name) if name in searchable(type(self.options)) else None


def _with(method: str, options: Options, values: Mapping[str, Any]) -> Options:
    """Replace options of a method, which refuses those of others by name."""
    own = {*type(options).model_fields, *searchable(type(options))}
    for name in values:
        if name not in own:
            near = near_names(str(name), own) if own else "It has none."
            raise ConfigError(f"method {method!r} has no option {name!r}. {near}")
    return with_values(options, dict(values))


class Adaptive(StrictModel):
    """A setting chosen for each prompt among arms.

    Attributes:
        arms: Settings that differ only in options marked per-prompt.
        fallback: Index of the arm that serves where nothing is predicted.
        predictor: Name of the JSON file beside the config that chooses.
    """

    arms: Annotated[tuple[Setting, ...], FailFast()] = Field(
        min_length=2, max_length=_MAX_ARMS, strict=False
    )
    fallback: int = Field(ge=0)
    predictor: str = Field(default=PREDICTOR_FILE, pattern=r"^[A-Za-z0-9_][\w.-]*\.json$")

    @model_validator(mode="after")
    def _one_family_of_arms(self) -> Self:
        if self.fallback >= len(self.arms):
            raise ValueError(f"fallback {self.fallback} is over the {len(self.arms)} arms")
        if len(set(self.arms)) != len(self.arms):
            raise ValueError("arms lists a setting twice; keep each once")
        first = self.arms[0]
        varied = searchable(type(first.options))
        free = [name for name, search in varied.items() if search.per_prompt]
        for place, arm in enumerate(self.arms[1:], 1):
            same = arm.method == first.method
            values = {name: value_of(first.options, name) for name in free}
            if not same or arm.with_options(**values) != first:
                raise ValueError(
                    f"arms[{place}] differs from arms[0] in more than what may vary by prompt "
                    f"({', '.join(free) or 'nothing of this method'})"
                )
        return self

    @property
    def budget(self) -> Budget:
        """The arms' budget."""
        return self.arms[0].budget

    @property
    def method(self) -> str:
        """The arms' method."""
        return self.arms[0].method

    @property
    def positions(self) -> Positions:
        """The arms' position policy."""
        return self.arms[0].positions


def _read_policy(value: Any) -> Setting | Adaptive:
    if isinstance(value, Setting | Adaptive):
        return value
    kind: type[Setting] | type[Adaptive] = (
        Adaptive if isinstance(value, Mapping) and "arms" in value else Setting
    )
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ValueError(explain(error, kind)) from None


Policy = Annotated[Setting | Adaptive, BeforeValidator(_read_policy)]
"""What a report row, a study's winner and a row of the exported table carry."""


def unpruned() -> Setting:
    """Return the policy that does nothing."""
    return Setting.of("unpruned", 1.0)


def fixed(policy: Setting | Adaptive) -> Setting:
    """Return a policy's setting where nothing is predicted: itself, or the fallback arm."""
    return policy if isinstance(policy, Setting) else policy.arms[policy.fallback]


def overridden(policy: Setting | Adaptive, options: Mapping[str, Any]) -> Setting | Adaptive:
    """Return a policy with options of one call; an adaptive one becomes its fallback arm.

    Raises:
        ConfigError: An option that the method does not have (near names), or out of range.
    """
    return fixed(policy).with_options(**options) if options else policy


# ResPrune's own settings by family, as known second-hand (docs/explanation/method.md); that of
# llava_next is inferred from 'LLaVA'. A family the paper did not test starts from l2_norm and alpha
# 0.5 and is marked untested.
PAPER_DEFAULTS: dict[str, tuple[float, str]] = {
    "llava": (0.75, "cls_attention"),
    "llava_next": (0.75, "cls_attention"),
    "qwen2_5_vl": (0.3, "l2_norm"),
}
UNTESTED_DEFAULT: tuple[float, str] = (0.5, "l2_norm")


def paper_default(family: str, budget: BudgetLike) -> Setting:
    """Return the paper's setting for a family, as far as it is known; see ``PAPER_DEFAULTS``."""
    alpha, seed_strategy = PAPER_DEFAULTS.get(family, UNTESTED_DEFAULT)
    return Setting.of("resprune", budget, alpha=alpha, seed_strategy=seed_strategy)


__all__ = [
    "PAPER_DEFAULTS",
    "PREDICTOR_FILE",
    "UNTESTED_DEFAULT",
    "Adaptive",
    "Later",
    "Policy",
    "Setting",
    "fixed",
    "overridden",
    "paper_default",
    "unpruned",
]
