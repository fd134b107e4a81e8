"""The ``[search]`` table of a study: which methods, at which budgets, over which of their options.

A key that is an option of a searched method holds for every searched method that has it;
``[search.METHOD]`` says otherwise for one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from resprune import methods
from resprune.budget import Budget
from resprune.errors import near_names
from resprune.options import Options, Positions, Search, is_whole, searchable, with_values
from resprune.setting import Later
from resprune.validation import StrictModel, explain, shown

Choices = tuple[bool | int | float | str, ...]
_OWN_KEYS = ("method", "budget", "positions", "later")
_T = TypeVar("_T")


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Make a tuple of a list, and of a value alone."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _distinct(values: tuple[_T, ...]) -> tuple[_T, ...]:
    if len(set(values)) != len(values):
        raise ValueError(f"{[str(value) for value in values]} lists a value twice; keep each once")
    return values


Listed = Annotated[tuple[_T, ...], BeforeValidator(as_tuple), AfterValidator(_distinct)]
"""Values of a study file, each once; one may stand alone."""


class Range(StrictModel):
    """A range of numbers to search.

    Attributes:
        low: Least value.
        high: Greatest value.
        step: Resolution.
    """

    low: float
    high: float
    step: float = Field(gt=0.0)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self


class WholeRange(Range):
    """A range of whole numbers to search."""

    low: int
    high: int
    step: int = Field(ge=1)


class SearchSection(StrictModel):
    """The search space.

    Attributes:
        method: Methods to search; each gets the same number of trials.
        budget: Budgets to tune for. May be left out for the objective ``fixed-budget``, which
            names its own.
        positions: Position policies to try; None where the study leaves them out and searches a
            method inside the LLM, which then has its published ones where the model allows it.
        later: What follows every searched method before the LLM inside it; not searched.
        options: By method, what is tried of each of its options that is searched or fixed by the
            study: a range, or values.
    """

    method: Listed[str] = ("resprune",)
    budget: Listed[Budget] = ()
    positions: Listed[Positions] | None = ("keep",)
    later: Later | None = None
    options: dict[str, dict[str, Range | Choices]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _by_method(cls, data: Any) -> Any:
        """Sort the tables and keys of options by method, and fill in the defaults."""
        if not isinstance(data, Mapping):
            return data
        own = {key: data[key] for key in _OWN_KEYS if key in data}
        searched = as_tuple(own.get("method", ("resprune",)))
        for name in searched:
            if name not in methods.names():
                raise ValueError(
                    f"method: unknown method {shown(name)}. "
                    f"{near_names(str(name), methods.names())}"
                )
            if methods.get(name).stage == "none":
                raise ValueError(f"method: {name!r} is measured in every study; leave it out")
        stages = {methods.get(name).stage for name in searched}
        if "layers" in stages:
            own.setdefault("positions", None)
        if own.get("later") is not None:
            own["later"] = _read_later(own["later"])
            if "tokens" not in stages:
                raise ValueError(
                    "later: follows a method before the LLM, and none is searched; add one to "
                    "search.method, or remove the key"
                )
        given: dict[str, dict[str, tuple[str, Any]]] = {name: {} for name in searched}
        options = {name: searchable(methods.get(name).options) for name in searched}
        for key, value in data.items():
            if key in own:
                continue
            if key in methods.names():
                given.get(key, {}).update(_table_of(key, value, options))
                continue
            known = {name for each in options.values() for name in each}
            tables = methods.names() if isinstance(value, Mapping) else searched
            known |= {*_OWN_KEYS, *tables}
            _check_known("", (key,), known, f"the methods {', '.join(searched)}")
            for name in searched:
                if key in options[name]:
                    given[name].setdefault(key, (key, value))
        own["options"] = {
            name: {
                key: read_range(*given[name].get(key, (key, None)), key, search, name)
                for key, search in options[name].items()
                if key in given[name] or not search.asked
            }
            for name in searched
        }
        return own

    @field_validator("method", "positions", mode="before")
    @classmethod
    def _some(cls, values: Any) -> Any:
        if values is not None and not values:
            raise ValueError("an empty list; name at least one, or leave the key out")
        return values

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        """Write it as a study file has it: a table a method."""
        tables = {
            method: {
                key: value.model_dump() if isinstance(value, Range) else list(value)
                for key, value in each.items()
            }
            for method, each in self.options.items()
        }
        written: dict[str, Any] = {
            "method": list(self.method),
            "budget": [budget.model_dump() for budget in self.budget],
        }
        if self.positions is not None:
            written["positions"] = list(self.positions)
        if self.later is not None:
            later = self.later.model_dump(mode="json")
            written["later"] = {**later.pop("options"), **later}
        return {**written, **tables}


def read_range(place: str, value: Any, key: str, search: Search, method: str) -> Range | Choices:
    """Read what is tried of one option.

    Args:
        place: Where it stands, for messages.
        value: A table ``{low, high, step}``, a list or one value; None for the option's own range.
        key: Name of the option.
        search: The option's own range.
        method: The method that owns it.

    Returns:
        A range, or values.

    Raises:
        ValueError: A value outside what the method takes.
    """
    if isinstance(value, Range):
        return value
    if value is None and search.choices:
        return tuple(search.choices)
    if value is None or isinstance(value, Mapping):
        if search.choices:
            raise ValueError(f"{place}: a range of names; list some of {list(search.choices)}")
        own = {"low": search.low, "high": search.high, "step": search.step}
        kind = WholeRange if is_whole(methods.get(method).options, key) else Range
        try:
            found = kind.model_validate({**own, **(value or {})})
        except ValidationError as error:
            raise ValueError(f"{place}: {explain(error, kind)}") from None
        _check_values(place, key, (found.low, found.high), method)
        return found
    values = as_tuple(value)
    if not values:
        raise ValueError(f"{place}: an empty list; give a value, or leave the key out")
    if len(set(map(repr, values))) != len(values):
        raise ValueError(f"{place}: {list(values)} lists a value twice; keep each once")
    _check_values(place, key, values, method)
    if search.choices or is_whole(methods.get(method).options, key):
        return values
    return tuple(map(float, values))


def _check_values(place: str, key: str, values: tuple[Any, ...], method: str) -> None:
    default: Options = methods.get(method).options()
    for value in values:
        try:
            with_values(default, {key: value})
        except ValueError as error:
            problem = str(error).removeprefix("options: ").partition(": ")[2]
            raise ValueError(f"{place}: {problem} (an option of {method!r})") from None


def _read_later(table: Any) -> Later:
    """Read what a study does inside the LLM behind its methods before it."""
    if isinstance(table, Later):
        return table
    if not isinstance(table, Mapping):
        raise ValueError(
            f"later: {shown(table)} is no table; write later = {{ method = ..., budget = ... }}"
        )
    inside, name = methods.names("layers"), table.get("method")
    if name not in inside:
        near = near_names(str(name or ""), inside)
        raise ValueError(f"later.method: {shown(name)} is no method inside the LLM. {near}")
    given = dict(table)
    own = {key: given.pop(key) for key in ("method", "budget") if key in given}
    known = [*methods.get(name).options.model_fields, "method", "budget"]
    _check_known("later.", given, known, f"the method {name!r}")
    try:
        return Later.model_validate({**own, "options": given})
    except ValidationError as error:
        raise ValueError(f"later: {explain(error, Later)}") from None


def _table_of(
    method: str, table: Any, options: Mapping[str, Mapping[str, Search]]
) -> dict[str, tuple[str, Any]]:
    """Read ``[search.METHOD]``: place and value by option."""
    if method not in options:
        raise ValueError(
            f"[search.{method}]: the method {method!r} is not searched; add it to "
            "search.method, or remove the table"
        )
    if not isinstance(table, Mapping):
        raise ValueError(
            f"{method}: {shown(table)} is no table; write [search.{method}] with its options"
        )
    _check_known(f"{method}.", table, options[method], f"the method {method!r}")
    return {key: (f"{method}.{key}", value) for key, value in table.items()}


def _check_known(before: str, given: Iterable[Any], known: Collection[str], whose: str) -> None:
    for key in given:
        if key not in known:
            near = near_names(str(key), known) if known else "It has none."
            raise ValueError(f"unknown key {before + str(key)!r}: no option of {whose}. {near}")
