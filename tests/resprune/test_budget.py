"""Budgets: what is one, the one rounding, and round trips."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from resprune.budget import Budget, Count, Energy, Ratio, read_budget
from resprune.errors import ResPruneError

ADAPTER: TypeAdapter[Any] = TypeAdapter(Budget)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (5, Count(count=5)),
        (1, Count(count=1)),
        (1.0, Ratio(ratio=1.0)),
        (0.11, Ratio(ratio=0.11)),
        (np.int64(7), Count(count=7)),
        (np.float64(0.5), Ratio(ratio=0.5)),
        ({"count": 43}, Count(count=43)),
        ({"ratio": 1}, Ratio(ratio=1.0)),  # what JSON tools make of 1.0
        ({"energy": 0.05, "most": 98}, Energy(energy=0.05, most=98, least=1)),
        (Energy(energy=0.5, most=4, least=4), Energy(energy=0.5, most=4, least=4)),
    ],
)
def test_what_is_a_budget(given_: Any, expected: Any) -> None:
    found = read_budget(given_)
    assert found == expected
    assert type(found) is type(expected)
    assert hash(found) == hash(expected)
    assert ADAPTER.validate_python(given_) == expected


@pytest.mark.parametrize(
    "given_",
    [0, -1, 0.0, -0.5, 1.5, float("nan"), float("inf"), True, "5", None, [5], torch.tensor(2.5)],
    ids=str,
)
def test_what_is_none(given_: Any) -> None:
    with pytest.raises(ResPruneError, match=r"budget: .* is not a budget; give a count"):
        read_budget(given_)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"count": 0}, "count: .*not 0"),
        ({"count": 1.0}, "count: .*not 1.0"),
        ({"ratio": 1.5}, "ratio: .*not 1.5"),
        ({"energy": 1.0, "most": 5}, "energy: .*not 1.0"),
        ({"energy": 0.0, "most": 5}, "energy: .*not 0.0"),
        ({"energy": 0.1}, "key 'most' is missing"),
        ({"energy": 0.1, "most": 3, "least": 4}, "least 4 is over most 3"),
        ({"energy": 0.1, "most": 3, "laest": 2}, "Did you mean 'least'"),
        ({"cuont": 5}, "Did you mean 'count'"),
        ({"count": 5, "ratio": 0.5}, "unknown key 'ratio'"),
        ({}, "Allowed: count, energy, ratio"),
    ],
)
def test_a_wrong_table_names_the_key(given_: Any, message: str) -> None:
    with pytest.raises(ResPruneError, match=f"budget: .*{message}"):
        read_budget(given_)


@pytest.mark.parametrize(
    ("budget", "tokens", "count"),
    [
        (5, 16, 5),
        (64, 16, 16),
        (1, 16, 1),
        (0.5, 16, 8),
        (1.0, 16, 16),
        (0.001, 16, 1),
        (0.2, 9, 2),
    ],
)
def test_the_one_rounding(budget: int | float, tokens: int, count: int) -> None:
    assert read_budget(budget).limit(tokens) == count
    assert read_budget(budget).of(tokens) == count


@pytest.mark.parametrize(
    ("energy", "most", "least", "tokens", "count"),
    [
        (0.3, 6, 1, 9, 3),
        (0.25, 6, 1, 9, 3),  # at the energy is enough
        (0.24, 6, 1, 9, 4),
        (0.3, 6, 5, 9, 5),
        (0.001, 4, 1, 9, 4),
        (0.95, 6, 1, 9, 1),
        (0.001, 50, 1, 6, 6),
        (0.001, 50, 10, 6, 6),
    ],
)
def test_energy_stops_at_the_first_count_that_is_enough(
    energy: float, most: int, least: int, tokens: int, count: int
) -> None:
    left = [0.9, 0.5, 0.25, 0.1, 0.05, 0.02]
    budget = Energy(energy=energy, most=most, least=least)
    assert budget.limit(tokens) == min(most, tokens)
    assert budget.of(tokens, left[: budget.limit(tokens)]) == count


def test_energy_needs_energies() -> None:
    with pytest.raises(ResPruneError, match="needs the energies of a nested method"):
        Energy(energy=0.1, most=5).of(9)


budgets = (
    st.integers(1, 10**6)
    | st.floats(0, 1, exclude_min=True)
    | st.builds(
        lambda energy, least, more: Energy(energy=energy, most=least + more, least=least),
        st.floats(0, 1, exclude_min=True, exclude_max=True),
        st.integers(1, 500),
        st.integers(0, 500),
    )
)


@given(budgets)
def test_json_keeps_what_a_budget_is(given_: Any) -> None:
    budget = read_budget(given_)
    data = json.loads(json.dumps(ADAPTER.dump_python(budget, mode="json")))
    assert read_budget(data) == budget
    assert type(read_budget(data)) is type(budget)
    assert ADAPTER.validate_json(ADAPTER.dump_json(budget)) == budget
    # tools that turn 1.0 into 1
    short = {k: int(v) if float(v).is_integer() else v for k, v in data.items()}
    assert read_budget(short) == budget
