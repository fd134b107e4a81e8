"""The greedy expansion against a float64 projection from scratch and against determinants."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from resprune.errors import ResPruneError
from resprune.subspace import (
    features,
    gram_matrix,
    greedy_order,
    greedy_order_batch,
    lazy,
    masked,
    reference_order,
)
from resprune.subspace.reference import residual_energy

PATHS = ("lazy", "lazy_masked", "recurrence")  # the kernel: test_kernel.py
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
# Rounding of a residual energy relative to the token's own energy.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}


def check_greedy(tokens: Tensor, weights: Tensor, order: list[int], first: int | None) -> None:
    """Replay an order: every pick is the best, or within rounding of it, by brute force.

    Whether a token within rounding of the tolerance is exhausted is left open, so the pass may
    have begun at any of ``starts``.
    """
    dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    tolerance, slack = TOLERANCE[dtype], ROUNDING[dtype]
    rows = tokens.double()
    own = (rows**2).sum(dim=1)
    unit = rows / own.sqrt().clamp_min(1e-300)[:, None]
    worth = own * weights.double()
    starts = {0}
    for step, pick in enumerate(order):
        left = torch.ones(len(rows), dtype=torch.bool)
        left[order[:step]] = False
        assert left[pick], f"token {pick} was kept twice"
        if step == 0 and first is not None:
            assert pick == first
            continue
        after: set[int] = set()
        for start in starts:
            energy = residual_energy(unit, order[start:step])
            fresh = left & (energy > tolerance + slack)
            maybe = left & (energy > tolerance - slack)
            if maybe.any() and maybe[pick]:
                best = ((energy - slack) * worth)[fresh].max() if fresh.any() else -torch.inf
                if (energy[pick] + slack) * worth[pick] >= best:
                    after.add(start)
            if not fresh.any():
                best = worth[left].max()
                if worth[pick] >= best * (1 - slack):
                    after.add(step)
        assert after, f"step {step} kept {pick}, which is not the best: {order}"
        starts = after


@st.composite
def images(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> Tensor:
    """Token matrices with duplicates, zero rows, low rank, and wild norms."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, width = draw(st.integers(1, 24)), draw(st.integers(1, 16))
    rank = draw(st.integers(1, width))
    tokens = torch.randn(count, rank, generator=generator, dtype=torch.float64)
    tokens = tokens @ torch.randn(rank, width, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        tokens = tokens[torch.randint(0, count, (count,), generator=generator)]
    if draw(st.booleans()):
        tokens[torch.rand(count, generator=generator) < 0.3] = 0
    spread = draw(st.sampled_from([0.0, 1.0, 12.0]))
    tokens = tokens * 10 ** (
        spread * (torch.rand(count, 1, generator=generator, dtype=torch.float64) * 2 - 1)
    )
    return tokens.to(draw(st.sampled_from(dtypes)))


def draw_weights(data: st.DataObject, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    relevance = torch.rand(count, generator=generator).clamp_min(0.01)
    return relevance ** data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))


@contextmanager
def small_blocks() -> Iterator[None]:
    """Make the lazy path look at three candidates at a time, as it does on large images."""
    with (
        patch.object(lazy, "_ALL_WITH_GRAM", 0),
        patch.object(lazy, "_FEWEST_CANDIDATES", 3),
        patch.object(lazy, "_MOST_CANDIDATES_OF_FEW", 3),
        patch.object(lazy, "_CANDIDATES_PER_ROOT", 0),
        patch.object(lazy, "_SOON", 2),
        patch.object(masked, "_CANDIDATES", 3),
        patch.object(masked, "_PICKS", 2),
        patch.object(features, "_STRIP", 2),
        patch.object(features, "_SMALL", 0),
        patch.object(features, "_SMALL_SHARED", 0),
    ):
        yield


@settings(max_examples=300, deadline=None)
@given(images((torch.float32, torch.float64, torch.bfloat16)), st.data())
def test_blocks_and_lockstep_pick_the_best_too(tokens: Tensor, data: st.DataObject) -> None:
    count = tokens.shape[0]
    weights = torch.stack([draw_weights(data, count) for _ in range(data.draw(st.integers(1, 3)))])
    first = torch.tensor([[data.draw(st.integers(-1, count - 1)) for _ in weights]])
    k = data.draw(st.integers(1, count))
    gram = gram_matrix(tokens[None]) if data.draw(st.booleans()) else None
    for path in PATHS:
        with small_blocks():
            orders = greedy_order_batch(
                tokens[None], weights[None], k, first, gram=gram, path=path
            )[0]
        for order, weight, seed in zip(orders.tolist(), weights, first[0].tolist(), strict=True):
            assert len(order) == k
            check_greedy(tokens, weight, order, seed if seed >= 0 else None)


@settings(max_examples=60, deadline=None)
@given(images(), st.data())
def test_blocks_and_lockstep_are_nested(tokens: Tensor, data: st.DataObject) -> None:
    count = tokens.shape[0]
    weights = draw_weights(data, count)[None]
    k = data.draw(st.integers(1, count))
    for path in PATHS:
        with small_blocks():
            full = greedy_order_batch(tokens[None], weights, count, path=path)[0].tolist()
            assert greedy_order_batch(tokens[None], weights, k, path=path)[0].tolist() == full[:k]


@settings(max_examples=60, deadline=None)
@given(images((torch.float64,)), st.data())
def test_masked_blocks_need_no_look_by_the_host(tokens: Tensor, data: st.DataObject) -> None:
    """What a CUDA graph would capture: a bound on the passes that holds for every image."""
    weights = draw_weights(data, tokens.shape[0])
    k = data.draw(st.integers(1, tokens.shape[0]))
    with small_blocks():
        order = greedy_order_batch(
            tokens[None], weights[None], k, validate=False, path="lazy_masked"
        )[0]
    check_greedy(tokens, weights, order.tolist(), None)


def test_a_tie_with_a_token_outside_the_block_goes_to_the_lowest_index() -> None:
    """After token 0, token 5 ties exactly with token 3, which is not among the candidates."""
    tokens = torch.zeros(7, 10)
    for index, axis in ((0, 0), (1, 7), (2, 8), (3, 5), (4, 9), (6, 6)):
        tokens[index, axis] = 1
    tokens[5, :4] = 0.5
    weights = torch.tensor([1.0, 0.1, 0.2, 0.75, 0.3, 1.0, 0.9])
    for path in PATHS:
        with small_blocks():
            order = greedy_order_batch(tokens[None], weights[None], 7, path=path)[0]
        assert order.tolist() == [0, 6, 3, 5, 4, 2, 1]


@pytest.mark.parametrize("path", PATHS)
def test_nearly_parallel_outliers_do_not_spoil_float32(path: str) -> None:
    """Massive activations: long tokens of one direction, picked first and divided by."""
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(200, 64, generator=generator)
        direction = torch.randn(64, generator=generator)
        tokens[:6] = 1000 * (direction + 0.01 * torch.randn(6, 64, generator=generator))
        ones = torch.ones(200)
        expected = reference_order(tokens, ones, 60, tolerance=1e-5)
        assert greedy_order_batch(tokens[None], ones[None], 60, path=path)[0].equal(expected)


@pytest.mark.parametrize("correlated", [False, True])
def test_large_images_in_blocks(correlated: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1200, 96, generator=generator)
    if correlated:  # a common mean, and clusters: scores collapse and blocks end early
        tokens = tokens * 0.3 + torch.randn(96, generator=generator)
        tokens = tokens + torch.randn(40, 96, generator=generator)[torch.arange(1200) % 40]
    relevance = torch.rand(1200, generator=generator).clamp_min(0.01)
    weights = torch.stack([relevance**alpha for alpha in (0.0, 0.5, 2.0)])
    first = torch.tensor([[-1, 5, 7]])
    expected = [
        reference_order(tokens, weight, 60, seed if seed >= 0 else None, 1e-5).tolist()
        for weight, seed in zip(weights, first[0].tolist(), strict=True)
    ]
    together = greedy_order_batch(tokens[None], weights[None], 60, first)[0]
    assert together.tolist() == expected
    for weight, seed, order in zip(weights, first[0].tolist(), expected, strict=True):
        assert greedy_order(tokens, weight, 60, seed if seed >= 0 else None).tolist() == order


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nothing_waits_for_the_host() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 300, 64, generator=generator)
    weights = torch.rand(2, 3, 300, generator=generator)
    expected = greedy_order_batch(tokens, weights, 40, path="recurrence")
    inputs = tokens.cuda(), weights.cuda()
    greedy_order_batch(*inputs, 40, validate=False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = greedy_order_batch(*inputs, 40, validate=False)
    graph.replay()
    assert torch.equal(captured.cpu(), expected)


@settings(max_examples=200, deadline=None)
@given(images((torch.float32, torch.float64, torch.bfloat16, torch.float16)), st.data())
def test_every_pick_is_the_best_by_projection_from_scratch(
    tokens: Tensor, data: st.DataObject
) -> None:
    tokens = torch.nan_to_num(tokens)  # float16 overflows at the wildest norms
    count = tokens.shape[0]
    weights = draw_weights(data, count)
    first = data.draw(st.none() | st.integers(0, count - 1))
    k = data.draw(st.integers(1, count + 3))
    order = greedy_order(tokens, weights, k, first).tolist()
    assert len(order) == min(k, count)
    check_greedy(tokens, weights, order, first)


@settings(max_examples=100, deadline=None)
@given(images((torch.float64,)), st.data())
def test_the_reference_keeps_its_own_rules(tokens: Tensor, data: st.DataObject) -> None:
    count = tokens.shape[0]
    weights = draw_weights(data, count)
    order = reference_order(tokens, weights, count)
    assert sorted(order.tolist()) == list(range(count))
    check_greedy(tokens, weights, order.tolist(), None)


@pytest.mark.parametrize("seed", range(5))
def test_same_order_as_the_reference_on_generic_tokens(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(60, 24, generator=generator)
    weights = torch.rand(60, generator=generator)
    for first in (None, 7):
        expected = reference_order(tokens, weights, 60, first, tolerance=1e-5)
        assert greedy_order(tokens, weights, 60, first).tolist() == expected.tolist()
        exact = greedy_order(tokens.double(), weights, 60, first)
        assert exact.tolist() == reference_order(tokens, weights, 60, first).tolist()


@pytest.mark.parametrize("seed", range(8))
def test_unit_rows_weighted_by_squared_relevance_are_dpp_map_greedy(seed: int) -> None:
    """Kernel r_i cos_ij r_j: each pick maximises the determinant of the kept block."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(20, 12, generator=generator, dtype=torch.float64)
    tokens = tokens / tokens.norm(dim=1, keepdim=True)
    relevance = torch.rand(20, generator=generator, dtype=torch.float64) * 0.99 + 0.01
    kernel = relevance[:, None] * (tokens @ tokens.T) * relevance
    kept: list[int] = []
    for _ in range(10):
        volumes = [
            torch.linalg.det(kernel[[*kept, i]][:, [*kept, i]]) if i not in kept else -torch.inf
            for i in range(20)
        ]
        kept.append(int(torch.tensor(volumes).argmax()))
    assert greedy_order(tokens, relevance**2, 10).tolist() == kept
    assert greedy_order(tokens.float(), relevance.float() ** 2, 10).tolist() == kept


def test_greedy_finds_the_best_pair_axis_by_hand() -> None:
    tokens = torch.tensor([[3.0, 0.0], [2.9, 0.1], [0.0, 1.0], [0.0, 0.0]])
    ones = torch.ones(4)
    # 0 has the largest norm; 2 is orthogonal to it; 1 lies in their span: a second pass.
    assert greedy_order(tokens, ones, 4).tolist() == [0, 2, 1, 3]
    # Weighted, the same residual energies rank 1 first.
    assert greedy_order(tokens, torch.tensor([0.1, 1.0, 0.01, 1.0]), 2).tolist() == [1, 2]
    assert greedy_order(tokens, ones, 4, first=3).tolist() == [3, 0, 2, 1]


def test_ties_go_to_the_lowest_index() -> None:
    assert greedy_order(torch.eye(6), torch.ones(6), 6).tolist() == list(range(6))
    same = torch.ones(5, 3)
    assert greedy_order(same, torch.ones(5), 5).tolist() == list(range(5))
    assert greedy_order(torch.zeros(4, 3), torch.ones(4), 4).tolist() == list(range(4))
    assert greedy_order(torch.eye(3), torch.zeros(3), 3).tolist() == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(images(), st.data())
def test_orders_are_nested(tokens: Tensor, data: st.DataObject) -> None:
    count = tokens.shape[0]
    weights = draw_weights(data, count)
    k = data.draw(st.integers(1, count))
    full = greedy_order(tokens, weights, count).tolist()
    assert greedy_order(tokens, weights, k).tolist() == full[:k]


@settings(max_examples=60, deadline=None)
@given(st.lists(images(), min_size=1, max_size=4), st.data())
def test_padded_batches_and_settings_equal_single_runs(
    batch: list[Tensor], data: st.DataObject
) -> None:
    count = max(len(tokens) for tokens in batch)
    width = max(tokens.shape[1] for tokens in batch)
    per_image = data.draw(st.integers(1, 3))
    tokens = torch.zeros(len(batch), count, width)
    weights = torch.stack([draw_weights(data, count) for _ in range(len(batch) * per_image)])
    weights = weights.view(len(batch), per_image, count)
    lengths = torch.tensor([len(image) for image in batch])
    first = torch.full((len(batch), per_image), -1)
    for row, image in enumerate(batch):
        tokens[row, : image.shape[0], : image.shape[1]] = image
        tokens[row, image.shape[0] :] = 1.0  # padding must not be read
        for a in range(per_image):
            first[row, a] = data.draw(st.integers(-1, len(image) - 1))
    k = data.draw(st.integers(1, count))
    for gram in (None, gram_matrix(tokens)):
        got = greedy_order_batch(tokens, weights, k, first, gram=gram, lengths=lengths)
        assert got.shape == (len(batch), per_image, k)
        for (row, image), a in itertools.product(enumerate(batch), range(per_image)):
            order = got[row, a].tolist()
            real = min(k, len(image))
            assert order[real:] == [-1] * (k - real)
            seed = int(first[row, a])
            check_greedy(
                image, weights[row, a, : len(image)], order[:real], seed if seed >= 0 else None
            )


def test_batch_without_settings_matches_single_orders() -> None:
    tokens = torch.randn(5, 40, 16, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(5, 40, generator=torch.Generator().manual_seed(1))
    first = torch.tensor([0, -1, 3, 39, -1])
    got = greedy_order_batch(tokens, weights, 20, first)
    for row in range(5):
        seed = int(first[row]) if first[row] >= 0 else None
        assert (
            got[row].tolist() == reference_order(tokens[row], weights[row], 20, seed, 1e-5).tolist()
        )


def test_precision_does_not_follow_autocast_or_the_model() -> None:
    tokens = torch.randn(80, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    weights = torch.ones(80)
    expected = reference_order(tokens, weights, 80, tolerance=1e-5).tolist()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert greedy_order(tokens, weights, 80).tolist() == expected


def test_scale_of_the_features_does_not_change_the_order() -> None:
    tokens = torch.randn(30, 12, generator=torch.Generator().manual_seed(4))
    weights = torch.rand(30, generator=torch.Generator().manual_seed(5))
    expected = greedy_order(tokens, weights, 30).tolist()
    for power in (-120, -60, 60, 120):
        assert greedy_order(tokens * 2.0**power, weights, 30).tolist() == expected
        assert greedy_order(tokens, weights * 2.0**power, 30).tolist() == expected


@example(0)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_permuting_tokens_permutes_the_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(20, 10, generator=generator, dtype=torch.float64)
    weights = torch.rand(20, generator=generator, dtype=torch.float64)
    shuffle = torch.randperm(20, generator=generator)
    straight = greedy_order(tokens, weights, 10)
    assert (
        shuffle[greedy_order(tokens[shuffle], weights[shuffle], 10)].tolist() == straight.tolist()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "at least 1"),
        ({"k": -3}, "at least 1"),
        ({"k": 2.5}, "at least 1"),
        ({"first": 9}, "first is"),
        ({"first": -1}, "first is"),
        ({"weights": torch.ones(3)}, "one weight a token"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0, 1.0])}, "negative"),
        ({"weights": torch.tensor([1.0, torch.nan, 1.0, 1.0])}, "non-finite"),
        ({"tokens": torch.full((4, 2), torch.inf)}, "token 0"),
        ({"tokens": torch.ones(4, 2, dtype=torch.int64)}, "floating-point"),
        ({"tokens": torch.ones(1, 4, 2)}, "greedy_order_batch"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    call: dict[str, object] = {"tokens": torch.eye(4, 2), "weights": torch.ones(4), "k": 2}
    with pytest.raises(ResPruneError, match=message):
        greedy_order(**{**call, **change})


def test_a_gram_matrix_of_raw_rows_is_refused() -> None:
    tokens = 3 * torch.randn(1, 5, 4)
    with pytest.raises(ResPruneError, match="gram_matrix"):
        greedy_order_batch(tokens, torch.ones(1, 5), 2, gram=tokens @ tokens.transpose(1, 2))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_token_that_is_not_finite_is_named(path: str, value: float) -> None:
    tokens = torch.randn(1, 5, 4)
    tokens[0, 3, 2] = value
    with pytest.raises(ResPruneError, match="token 3"):
        greedy_order_batch(tokens, torch.ones(1, 5), 2, path=path)


def test_unknown_paths_are_named() -> None:
    with pytest.raises(ResPruneError, match="Did you mean 'lazy'"):
        greedy_order_batch(torch.ones(1, 2, 2), torch.ones(1, 2), 1, path="lazzy")


def test_no_tokens_give_an_empty_order() -> None:
    assert greedy_order(torch.zeros(0, 3), torch.zeros(0), 2).tolist() == []
