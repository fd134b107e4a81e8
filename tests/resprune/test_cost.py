"""Visual tokens averaged over decoder layers, against published figures and brute force."""

from __future__ import annotations

import pytest

from resprune import methods
from resprune.cost import cost, count_for_cost, tokens_by_layer
from resprune.errors import ResPruneError
from resprune.setting import Setting

INSIDE = ["dart", "fastv", "pyramiddrop", "sparsevlm"]


@pytest.mark.parametrize(
    ("name", "k", "mean"),
    [
        ("pyramiddrop", 72, 270),
        ("sparsevlm", 113, 206.5),
        ("sparsevlm", 39, 145),
        ("sparsevlm", 27, 114),
        ("sparsevlm", 18, 82),
    ],
)
def test_published_layer_means(name: str, k: int, mean: float) -> None:
    assert cost(Setting.of(name, k), 576, 32) == pytest.approx(mean, abs=0.5)


def test_each_layer_runs_on_what_is_left() -> None:
    assert tokens_by_layer(Setting.of("fastv", 10), 36, 4) == [36, 10, 10, 10]
    assert tokens_by_layer(Setting.of("fastv", 10), 36, 32) == [36] * 2 + [10] * 30
    assert tokens_by_layer(Setting.of("l2_norm", 10), 36, 4) == [10] * 4
    both = Setting.of("l2_norm", 20).then("fastv", 5)
    assert tokens_by_layer(both, 36, 4) == [20, 5, 5, 5]


@pytest.mark.parametrize("name", ["fastv", "dart"])
@pytest.mark.parametrize(("mean", "k"), [(192, 166), (128, 98), (64, 29)])
def test_counts_at_a_mean_of_one_drop(name: str, mean: int, k: int) -> None:
    """(32 mean - 2 T) / 30 floored: at 64 that is 29.87, and 30 would cost 64.125."""
    assert count_for_cost(name, methods.get(name).options(), 576, 32, mean) == k


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize(("tokens", "depth"), [(36, 4), (576, 32)])
def test_the_largest_count_within_the_cost(name: str, tokens: int, depth: int) -> None:
    costs = {k: cost(Setting.of(name, k), tokens, depth) for k in range(1, tokens + 1)}
    options = methods.get(name).options()
    for mean in (min(costs.values()), *(costs[k] for k in (1, 2, 18, 19, tokens)), tokens * 0.71):
        expected = max(k for k, own in costs.items() if own <= mean)
        assert count_for_cost(name, options, tokens, depth, mean) == expected


def test_a_cost_below_the_least_is_refused() -> None:
    options = methods.get("pyramiddrop").options()
    with pytest.raises(ResPruneError, match=r"'pyramiddrop' runs 163\.\d+ of 576 .* 144 is asked"):
        count_for_cost("pyramiddrop", options, 576, 32, 144)
    with pytest.raises(ResPruneError, match="'scope' does not act inside the LLM"):
        count_for_cost("scope", methods.get("scope").options(), 576, 32, 100)
