"""The serving benchmark's arithmetic and its requests; vLLM itself is not needed."""

from __future__ import annotations

from benchmarks.serving import (
    TOKENS,
    UNPRUNED,
    Turn,
    budget_of,
    markdown,
    policies,
    requests,
    summarise,
)


def test_ratios_are_within_a_round() -> None:
    rates = {UNPRUNED: [1.0, 10.0, 2.0]}
    rounds = [
        [
            Turn(name, 8, 600, rates.get(name, [3.0, 20.0, 8.0])[number], 100 / (1 + number), 9)
            for name in policies()
        ]
        for number in range(3)
    ]
    rows = {row["policy"]: row for row in summarise(rounds)}
    assert rows[UNPRUNED]["times"] == 1
    assert rows["l2_norm"]["times"] == 3  # of 3, 2 and 4; not of the medians, 8 / 2
    assert rows["l2_norm"]["range"] == [2, 4]
    assert rows["l2_norm"]["first_times"] == 1
    table = markdown(
        {
            "machine": "m",
            "requests": 1,
            "rounds": 3,
            "servers": {"a": list(rows.values())},
            "engine": [],
        }
    )
    assert "| 8 | l2_norm | 600 | 8.00 | 3.00 [2.00, 4.00] |" in table


def test_requests_are_new_ones_each_turn_and_share_pictures_as_asked() -> None:
    first, again, other = requests(8, 4, 1), requests(8, 4, 1), requests(8, 4, 2)
    assert first == again
    assert len({each.url for each in first}) == 2
    assert len({each.question for each in first}) > 2
    assert not {each.url for each in first} & {each.url for each in other}


def test_every_policy_has_a_budget_of_its_own() -> None:
    budgets = [budget_of(setting) for setting in policies().values()]
    assert len(set(budgets)) == len(budgets)
    assert budgets[0] == 1.0
    assert all(setting.budget.limit(TOKENS) <= TOKENS for setting in policies().values())
