"""The rivals against brute force in float64, and against what public code picked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resprune import methods
from resprune.methods import Inputs, Selection
from resprune.methods._common import part_of
from resprune.methods.cdpruner import contrastive_relevance
from resprune.methods.scope import coverage_order
from resprune.methods.visionzip import dominant_and_contextual
from resprune.subspace import gram_matrix

SEEDS = range(4)
SIZES = (64, 1024)


def features(seed: int, count: int = 40, width: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width))


def cosine(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


def chosen(name: str, inputs: Inputs, k: int, **options: Any) -> Selection:
    method = methods.get(name)
    return method.select(inputs, k, method.options(**options))


def pick(name: str, inputs: Inputs, k: int) -> list[int]:
    return chosen(name, inputs, k).indices.tolist()


def as_tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()


@pytest.mark.parametrize("name", ["l2_norm", "cls_attention", "relevance"])
def test_rankings_sort_by_their_score(name: str) -> None:
    rows = features(0)
    score = np.random.default_rng(1).random(40)
    score[7] = score[3]  # a tie goes to the lower index
    inputs = Inputs(as_tensor(rows), as_tensor(score), {"cls_attention": as_tensor(score)})
    by = np.linalg.norm(rows, axis=1) if name == "l2_norm" else score
    expected = sorted(range(40), key=lambda i: (-np.float32(by[i]), i))
    assert pick(name, inputs, 12) == expected[:12]


@pytest.mark.parametrize("seed", SEEDS)
def test_divprune_is_farthest_point_sampling(seed: int) -> None:
    rows = features(seed)
    distance = 1 - cosine(rows)
    others = [[distance[i, j] for j in range(40) if j != i] for i in range(40)]
    kept = [int(np.argmax([min(row) for row in others]))]
    while len(kept) < 15:
        gaps = [-1.0 if i in kept else min(distance[i, j] for j in kept) for i in range(40)]
        kept.append(int(np.argmax(gaps)))
    assert pick("divprune", Inputs(as_tensor(rows)), 15) == kept


@pytest.mark.parametrize("seed", SEEDS)
def test_cdpruner_maximises_determinants(seed: int) -> None:
    rows, images = features(seed), features(seed + 10, width=6)
    texts = features(seed + 20, count=3, width=6)
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (images, texts)]
    relevance = -(unit[0] @ unit[1].T).mean(axis=1)
    relevance = (relevance - relevance.min()) / (relevance.max() - relevance.min())
    kernel = relevance[:, None] * cosine(rows) * relevance
    kept: list[int] = []
    while len(kept) < 9:
        volumes = [
            -1.0 if i in kept else np.linalg.det(kernel[np.ix_([*kept, i], [*kept, i])])
            for i in range(40)
        ]
        kept.append(int(np.argmax(volumes)))
    extras = {"image_embeds": as_tensor(images), "text_embeds": as_tensor(texts)}
    assert pick("cdpruner", Inputs(as_tensor(rows), extras=extras), 9) == kept
    # Without the contrastive model's two sides, the same rule on the relevance at hand.
    assert pick("cdpruner", Inputs(as_tensor(rows), as_tensor(relevance)), 9) == kept


# Without attention two tokens that cover only each other tie exactly, so few are picked there.
@pytest.mark.parametrize(("exponent", "k"), [(0.0, 8), (1.0, 15), (2.5, 15)])
@pytest.mark.parametrize("seed", SEEDS)
def test_scope_maximises_weighted_coverage(seed: int, exponent: float, k: int) -> None:
    rows = features(seed)
    attention = np.random.default_rng(seed).random(40)
    similar = np.maximum(cosine(rows), 0)

    def coverage(kept: list[int]) -> float:
        return float(similar[kept].max(axis=0).sum()) if kept else 0.0

    kept: list[int] = []
    while len(kept) < k:
        now = coverage(kept)
        gains = [
            -1.0 if i in kept else (coverage([*kept, i]) - now) * attention[i] ** exponent
            for i in range(40)
        ]
        kept.append(int(np.argmax(gains)))
    inputs = Inputs(as_tensor(rows), signals={"cls_attention": as_tensor(attention)})
    assert chosen("scope", inputs, k, exponent=exponent).indices.tolist() == kept


@pytest.mark.parametrize(("k", "contextual"), [(192, 30), (128, 20), (64, 10)])
def test_visionzip_splits_the_published_budgets(k: int, contextual: int) -> None:
    rows = as_tensor(features(0, count=576, width=4))
    attention = torch.rand(576, generator=torch.Generator().manual_seed(0))
    found = chosen("visionzip", Inputs(rows, signals={"cls_attention": attention}), k)
    assert found.features is not None
    unchanged = (found.features == rows[found.indices]).all(dim=1)
    assert unchanged[: k - contextual].all()
    assert not unchanged[k - contextual :].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_visionzip_merges_each_token_into_its_nearest_target(seed: int) -> None:
    rows, keys = features(seed), features(seed + 10, width=5)
    attention = np.random.default_rng(seed).random(40)
    dominant = sorted(range(40), key=lambda i: -attention[i])[:12]
    rest = [i for i in range(40) if i not in dominant]
    targets = [rest[j * (len(rest) // 4)] for j in range(4)]
    similar = cosine(keys)
    merged = []
    for target in targets:
        mine = [
            i
            for i in rest
            if i not in targets and target == max(targets, key=lambda t: similar[i, t])
        ]
        merged.append(rows[target] + (rows[mine].mean(axis=0) if mine else 0))
    indices, got = dominant_and_contextual(
        as_tensor(rows), as_tensor(attention), as_tensor(keys), 16, 4
    )
    assert indices.tolist() == dominant + targets
    np.testing.assert_allclose(got[:12].numpy(), rows[dominant], rtol=1e-6)
    np.testing.assert_allclose(got[12:].numpy(), np.array(merged), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("k", "share"), [(1, 0.5), (7, 0.5), (16, 0.5), (16, 0.0), (16, 0.3)])
def test_vispruner_drops_eight_duplicates_a_round(seed: int, k: int, share: float) -> None:
    rows = features(seed, count=61)
    attention = np.random.default_rng(seed).random(61)
    similar = cosine(rows)
    order = sorted(range(61), key=lambda i: -attention[i])
    count = int(share * k)
    important, rest = order[:count], order[count:]
    while len(rest) > k - count:
        dealt = {0: rest[0::2], 1: rest[1::2]}
        by_copy = sorted(dealt[0], key=lambda i: -max(similar[i, j] for j in dealt[1]))
        for _ in range(8):
            if by_copy and len(by_copy) + len(dealt[1]) > k - count:
                by_copy.pop(0)
        rest = by_copy + dealt[1]
    inputs = Inputs(as_tensor(rows), signals={"cls_attention": as_tensor(attention)})
    found = chosen("vispruner", inputs, k, important=share)
    assert found.indices.tolist() == important + rest


@pytest.mark.parametrize(("share", "contextual"), [(0.0, 0), (0.25, 5), (0.5, 10), (0.29, 5)])
def test_visionzip_takes_its_contextual_share(share: float, contextual: int) -> None:
    rows, attention = as_tensor(features(0, count=100)), torch.rand(100)
    inputs = Inputs(rows, signals={"cls_attention": attention})
    found = chosen("visionzip", inputs, 20, contextual=share)
    assert found.features is not None
    assert int((found.features != rows[found.indices]).any(dim=1).sum()) == contextual


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("k", [1, 7, 16, 33, 40])
def test_holov_shares_the_budget_among_crops(seed: int, sharpness: float, k: int) -> None:
    """Token by token: of whole parts first, then one each to the largest shares with room."""
    attention = np.random.default_rng(seed).random(43) ** 4
    sizes = [len(crop) for crop in np.array_split(np.arange(43), 5)]
    crops = np.split(np.arange(43), np.cumsum(sizes)[:-1])
    quota = [0] * 5
    while sum(quota) < k:
        left = k - sum(quota)
        weights = [
            float(np.float32(attention[c]).mean(dtype=np.float64)) ** sharpness * (q < len(c))
            for c, q in zip(crops, quota, strict=True)
        ]
        shares = [weight / sum(weights) * left for weight in weights]
        more = [int(share) for share in shares]
        for i in sorted(range(5), key=lambda i: (-shares[i], i))[: left - sum(more)]:
            more[i] += 1
        quota = [min(q + m, len(c)) for q, m, c in zip(quota, more, crops, strict=True)]
    expected = [
        i
        for crop, count in zip(crops, quota, strict=True)
        for i in sorted(crop, key=lambda i: -attention[i])[:count]
    ]
    inputs = Inputs(as_tensor(features(seed, 43)), signals={"cls_attention": as_tensor(attention)})
    got = chosen("holov", inputs, k, crops=5, sharpness=sharpness).indices
    assert got.tolist() == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_holov_adds_how_much_cosines_vary(seed: int) -> None:
    rows, attention = features(seed), np.random.default_rng(seed).random(40)
    inputs = Inputs(as_tensor(rows), signals={"cls_attention": as_tensor(attention)})
    got = chosen("holov", inputs, 10, crops=2, sharpness=0.0, diversity=0.7).indices
    expected = []
    for crop in (range(20), range(20, 40)):
        cosines = cosine(rows)
        varied = [np.var([cosines[i, j] for j in crop if j != i]) for i in crop]
        scale = attention[list(crop)].mean() / np.mean(varied)
        score = {i: attention[i] + 0.7 * scale * v for i, v in zip(crop, varied, strict=True)}
        expected += sorted(crop, key=lambda i: -score[i])[:5]
    assert got.tolist() == expected


def test_shares_round_as_whole_numbers_do() -> None:
    for k in range(1, 5000):
        assert part_of(5 / 32, k) == k * 5 // 32
        assert part_of(0.5, k) == k // 2
    assert [part_of(0.29, 100), part_of(0.57, 100), part_of(0.1, 30)] == [29, 57, 3]


# -- what public code picked ---------------------------------------------------------------


def vectors(name: str, width: int) -> dict[str, Tensor]:
    beside = Path(__file__).resolve().parents[4] / "shared" / "vectors"
    folder = Path(os.environ.get("RESPRUNE_VECTORS", beside))
    path = folder / f"{name}_T144_d{width}.npz"
    if not path.exists():
        pytest.skip(f"no reference picks at {path}; name their folder in RESPRUNE_VECTORS")
    with np.load(path, allow_pickle=False) as archive:
        return {key: torch.from_numpy(np.asarray(archive[key])) for key in archive.files}


def same_picks(got: Tensor, expected: Tensor, stable: Tensor | bool = True) -> None:
    """Equal picks in order; as sets where the reference itself is tie-sensitive."""
    if bool(stable):
        assert got.tolist() == expected.tolist()
    else:
        assert set(got.tolist()) == set(expected.tolist())


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("k", [16, 48])
def test_divprune_picks_what_public_code_picks(width: int, k: int) -> None:
    data = vectors("divprune", width)
    got = chosen("divprune", Inputs(data["features"]), k).indices
    same_picks(got, data[f"selected_k{k}"], data[f"f64_same_k{k}"])


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("k", [16, 48])
def test_cdpruner_picks_what_public_code_picks(width: int, k: int) -> None:
    data = vectors("cdpruner", width)
    extras = {key: data[key] for key in ("image_embeds", "text_embeds")}
    inputs = Inputs(data["features"], extras=extras)
    got = chosen("cdpruner", inputs, k).indices
    same_picks(got.sort().values, data[f"selected_k{k}"], data[f"f64_same_k{k}"])
    same_picks(got[:16], data["order_k16"], data["f64_same_k16"])
    relevance = contrastive_relevance(data["image_embeds"], data["text_embeds"])
    torch.testing.assert_close(relevance, data["relevance"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("k", [16, 48])
@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_scope_picks_what_public_code_picks(width: int, k: int, exponent: float) -> None:
    data = vectors("scope", width)
    cosines = gram_matrix(data["features"])
    got = coverage_order(cosines, data["cls_attention"], k, exponent)
    name = f"alpha{exponent}_k{k}"
    same_picks(got, data[f"selected_{name}"], data[f"f64_same_{name}"])


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("k", [16, 48])
def test_visionzip_merges_what_public_code_merges(width: int, k: int) -> None:
    data = vectors("visionzip", width)
    patches = data["hidden_states"][1:]
    dominant, contextual = data[f"dominant_contextual_k{k}"].tolist()
    # The reference keeps the CLS token besides; here only patches are chosen among.
    indices, merged = dominant_and_contextual(
        patches,
        data["cls_attention_heads"].sum(dim=0)[1:],
        data["metric"][1:],
        dominant + contextual,
        contextual,
    )
    assert {0, *(indices[:dominant] + 1).tolist()} == set(data[f"all_indices_k{k}"].tolist())
    torch.testing.assert_close(merged[dominant:], data[f"output_k{k}"][1 + dominant :])


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("k", [16, 48])
def test_vispruner_picks_what_public_code_picks(width: int, k: int) -> None:
    data = vectors("vispruner", width)
    attention = {"cls_attention": data["attention_heads"].mean(dim=0)}
    inputs = Inputs(data["features"], signals=attention)
    got = chosen("vispruner", inputs, k).indices
    same_picks(got.sort().values, data[f"selected_r0.5_k{k}"], data[f"f64_same_k{k}"])


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("k", [16, 48])
def test_holov_picks_what_public_code_picks(width: int, k: int) -> None:
    """Where a quota is more than its crop holds, the reference is padded; here none is lost."""
    data = vectors("holov", width)
    inputs = Inputs(data["features"], signals={"cls_attention": data["attention"]})
    got = chosen("holov", inputs, k).indices
    expected = data[f"selected_k{k}"]
    if (expected >= 0).all():
        same_picks(got, expected, data[f"f64_same_k{k}"])
    assert set(expected[expected >= 0].tolist()) <= set(got.tolist())
