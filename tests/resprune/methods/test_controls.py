"""Methods that are controls: random, relevance, uniform, unpruned, pool and downsample."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resprune import methods
from resprune.budget import Energy
from resprune.errors import ConfigError, ResPruneError
from resprune.methods import Inputs, Selection
from resprune.methods.downsample import Downsample
from resprune.setting import Setting, unpruned


def select(name: str, image: Inputs, k: int, **options: object) -> Selection:
    method = methods.get(name)
    return method.select(image, k, method.options(**options))


# -- random and relevance -------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "key"), [(0, "a"), (7, "a"), (0, "vqa/1 2"), (3, "")])
def test_random_is_the_draw_that_studies_always_made(seed: int, key: str) -> None:
    digest = hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest()
    expected = np.random.default_rng(int.from_bytes(digest, "big")).permutation(50)[:20]
    found = select("random", Inputs(torch.ones(50, 2), key=key), 20, seed=seed)
    assert found.indices.tolist() == expected.tolist()


def test_random_keeps_every_token_as_often() -> None:
    picks = torch.zeros(10)
    for sample in range(3000):
        picks[select("random", Inputs(torch.ones(10, 2), key=str(sample)), 3).indices] += 1
    assert (picks - 900).abs().max() < 125  # 900 expected, standard deviation 25


def test_relevance_breaks_ties_by_the_lowest_index() -> None:
    relevance = torch.tensor([0.2, 0.9, 0.5, 0.9, 0.5, 0.01])
    found = select("relevance", Inputs(torch.ones(6, 2), relevance), 5)
    assert found.indices.tolist() == [1, 3, 2, 4, 0]


# -- uniform and unpruned -------------------------------------------------------------------


@given(st.integers(1, 700), st.data())
def test_uniform_is_even(tokens: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, tokens))
    found = select("uniform", Inputs(torch.ones(tokens, 1)), k).indices.tolist()
    assert len(found) == k
    gaps = [b - a for a, b in pairwise(found)]
    assert {*gaps} <= {math.floor(tokens / k), math.ceil(tokens / k)}
    ends = (found[0], tokens - 1 - found[-1])
    assert abs(ends[0] - ends[1]) <= 1


def test_unpruned_keeps_everything_or_says_why_not() -> None:
    image = Inputs(torch.ones(6, 2))
    assert select("unpruned", image, 6).indices.tolist() == list(range(6))
    with pytest.raises(ResPruneError, match="all of an image's 6 tokens and was asked for 5"):
        select("unpruned", image, 5)


def test_unpruned_has_one_budget() -> None:
    assert unpruned() == Setting.of("unpruned", 1.0)
    for budget in (1, 64, 0.5):
        with pytest.raises(ConfigError, match=f"keeps everything.*budget {budget};.*1.0"):
            Setting.of("unpruned", budget)
        with pytest.raises(ConfigError, match="keeps everything"):
            unpruned().at(budget)


# -- pool -------------------------------------------------------------------------------------


def places(*tiles: tuple[int, int]) -> Tensor:
    """Full grids, one a tile."""
    lines = [(t, r, c) for t, (h, w) in enumerate(tiles) for r in range(h) for c in range(w)]
    return torch.tensor(lines)


def pooled(where: Tensor, k: int, seed: int = 0) -> tuple[Tensor, Selection]:
    tokens = torch.randn(len(where), 64, generator=torch.Generator().manual_seed(seed)).double()
    return tokens, select("pool", Inputs(tokens, places=where), k)


def cells(tokens: Tensor, found: Selection) -> list[set[int]]:
    """Which tokens each feature is the mean of, by solving for the coefficients."""
    assert found.features is not None
    weights = torch.linalg.lstsq(tokens.T, found.features.T).solution.T
    assert torch.allclose(weights.sum(dim=1), torch.ones(len(weights)).double())
    members = [set((row > 1e-6).nonzero()[:, 0].tolist()) for row in weights]
    for row, mine in zip(weights, members, strict=True):
        assert torch.allclose(row[sorted(mine)], torch.tensor(1 / len(mine)).double())
    return members


@pytest.mark.parametrize(("h", "w"), [(6, 8), (8, 8), (1, 9), (9, 1), (3, 20), (7, 5)])
def test_pool_cuts_a_grid_into_cells(h: int, w: int) -> None:
    where = places((h, w))
    for k in range(1, h * w + 1):
        tokens, found = pooled(where, k)
        members = cells(tokens, found)
        assert len(members) == k
        assert sorted(i for cell in members for i in cell) == list(range(h * w)), "a partition"
        bands: dict[tuple[int, int], int] = {}
        for cell, kept in zip(members, found.indices.tolist(), strict=True):
            rows, columns = ({f(i) for i in cell} for f in (lambda i: i // w, lambda i: i % w))
            assert len(cell) == len(rows) * len(columns), "a rectangle"
            assert max(rows) - min(rows) == len(rows) - 1
            assert max(columns) - min(columns) == len(columns) - 1
            middle = (max(rows) + min(rows)) / 2, (max(columns) + min(columns)) / 2
            off = {i: (i // w - middle[0]) ** 2 + (i % w - middle[1]) ** 2 for i in cell}
            assert kept == min(cell, key=lambda i: (off[i], i)), "nearest the centre"
            bands[min(rows), max(rows)] = bands.get((min(rows), max(rows)), 0) + 1
        expected = min(max(round(math.sqrt(k * h / w)), math.ceil(k / w)), min(h, k))
        assert len(bands) == expected, "rows of cells"
        assert max(bands.values()) <= w
        assert max(bands.values()) - min(bands.values()) <= 1, "dealt evenly"


def test_pool_gives_tiles_their_share_by_the_largest_remainder() -> None:
    where = places((4, 4), (3, 4), (2, 5))  # 16, 12 and 10 of 38
    for k, expected in {
        1: (1, 0, 0),  # 0.42 0.32 0.26
        2: (1, 1, 0),  # 0.84 0.63 0.53
        5: (2, 2, 1),  # 2.11 1.58 1.32
        19: (8, 6, 5),
        20: (9, 6, 5),  # 8.42 6.32 5.26
        38: (16, 12, 10),
    }.items():
        _, found = pooled(where, k)
        tiles = where[found.indices, 0].tolist()
        assert tuple(tiles.count(t) for t in range(3)) == expected


def test_pool_counts_rows_and_does_not_measure_them() -> None:
    thinned = places((4, 6)) * torch.tensor([1, 2, 3])
    for k in (1, 5, 9):
        plain, other = pooled(places((4, 6)), k)[1], pooled(thinned, k)[1]
        assert torch.equal(plain.indices, other.indices)
        assert plain.features is not None
        assert other.features is not None
        assert torch.equal(plain.features, other.features)


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4)), min_size=1),
    st.data(),
)
def test_pool_takes_grids_with_holes(
    found_at: set[tuple[int, int, int]], data: st.DataObject
) -> None:
    where = torch.tensor(data.draw(st.permutations(sorted(found_at))))
    k = data.draw(st.integers(1, min(len(where), 60)))
    tokens, found = pooled(where, k)
    if len(where) <= 60:
        members = cells(tokens, found)
        assert sum(len(cell) for cell in members) == len(set().union(*members)), "no token twice"
        for cell, kept in zip(members, found.indices.tolist(), strict=True):
            assert kept in cell
            assert len({int(where[i, 0]) for i in cell}) == 1, "a cell of one tile"


@pytest.mark.parametrize("where", [None, torch.zeros(5, 3, dtype=torch.int64)])
def test_pool_without_places(where: Tensor | None) -> None:
    with pytest.raises(ResPruneError, match="needs the places of the image's 6 tokens"):
        select("pool", Inputs(torch.ones(6, 2), places=where), 3)


# -- downsample -------------------------------------------------------------------------------


def test_downsample_refuses_to_select() -> None:
    with pytest.raises(ResPruneError, match="replaces the image before the tower; studies run it"):
        select("downsample", Inputs(torch.ones(6, 2)), 3)
    with pytest.raises(ConfigError, match="'downsample' has no energy budgets"):
        Setting.of("downsample", Energy(energy=0.1, most=9))


@pytest.mark.parametrize(
    ("size", "tokens", "k", "expected"),
    [
        ((480, 640), 400, 100, (240, 320)),
        ((480, 640), 400, 400, (480, 640)),
        ((480, 640), 400, 900, (480, 640)),
        ((1, 900), 100, 1, (1, 90)),
        ((300, 300), 9, 4, (200, 200)),
    ],
)
def test_downsample_scales_both_edges(
    size: tuple[int, int], tokens: int, k: int, expected: tuple[int, int]
) -> None:
    assert Downsample().resized(size, tokens, k) == expected


@pytest.mark.parametrize("given_", [((0, 5), 4, 2), ((5, 5), 0, 2), ((5, 5), 4, 0)])
def test_downsample_names_what_is_empty(given_: tuple[tuple[int, int], int, int]) -> None:
    with pytest.raises(ResPruneError, match="each must be at least 1"):
        Downsample().resized(*given_)
