"""Relevance against cosines computed in numpy, one pair at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resprune.errors import ResPruneError
from resprune.relevance import NORMALIZATIONS, POOLINGS, relevance_scores, relevance_weights


def by_hand(
    tokens: np.ndarray, nouns: np.ndarray, pooling: str, normalization: str, eps: float
) -> np.ndarray:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    raw = []
    for token in tokens:
        if pooling == "pooled":
            raw.append(cosine(token, nouns.mean(axis=0)))
        else:
            values = [cosine(token, noun) for noun in nouns]
            raw.append(max(values) if pooling == "max" else sum(values) / len(values))
    score = np.array(raw)
    if normalization == "minmax":
        score = (score - score.min()) / (score.max() - score.min())
    elif normalization == "shift":
        score = (1 + score) / 2
    else:
        score = np.maximum(score, 0)
    return np.maximum(score, eps)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_matches_cosines_by_hand(pooling: str, normalization: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = (3 * torch.randn(17, 8, generator=generator)).to(dtype)
    nouns = torch.randn(3, 8, generator=generator).to(dtype)
    got = relevance_scores(tokens, nouns, pooling, normalization, eps=0.05)
    expected = by_hand(
        tokens.double().numpy(), nouns.double().numpy(), pooling, normalization, 0.05
    )
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(got.numpy(), expected, rtol=2e-5, atol=2e-6)


def test_floor_and_ceiling() -> None:
    tokens = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    got = relevance_scores(tokens, tokens[:1])
    assert got.min().item() == pytest.approx(0.01)
    assert got.max().item() == 1.0
    assert got.argmax().item() == 0


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_maps_that_say_nothing_are_ones(normalization: str) -> None:
    tokens = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    assert relevance_scores(tokens, torch.zeros(0, 4), "max", normalization).tolist() == [1.0] * 5
    assert relevance_scores(tokens, torch.zeros(2, 4), "max", normalization).tolist() == [1.0] * 5
    # The same direction at different lengths differs by rounding alone.
    same = torch.outer(torch.linspace(0.1, 7.0, 64), torch.randn(128))
    assert relevance_scores(same, torch.randn(3, 128), "max", normalization).tolist() == [1.0] * 64
    assert relevance_scores(tokens[:1], tokens, "max", normalization).tolist() == [1.0]


def test_scale_of_either_side_is_ignored() -> None:
    generator = torch.Generator().manual_seed(3)
    tokens, nouns = torch.randn(9, 5, generator=generator), torch.randn(2, 5, generator=generator)
    for pooling in POOLINGS:
        expected = relevance_scores(tokens, nouns, pooling)
        for scale in (1e-30, 1e30):
            got = relevance_scores(tokens * scale, nouns * scale, pooling)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_zero_token_has_cosine_zero() -> None:
    got = relevance_scores(
        torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), "max", "shift"
    )
    assert got.tolist() == [0.5, 1.0]


def test_autocast_does_not_lower_the_precision() -> None:
    generator = torch.Generator().manual_seed(4)
    tokens, nouns = (
        torch.randn(30, 64, generator=generator),
        torch.randn(4, 64, generator=generator),
    )
    expected = relevance_scores(tokens, nouns)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(relevance_scores(tokens, nouns), expected)


def test_weights_broadcast_over_alpha() -> None:
    relevance = torch.rand(4, 7).clamp_min(0.01)
    alphas = torch.tensor([0.0, 0.5, 2.0])
    got = relevance_weights(relevance, alphas)
    assert got.shape == (4, 3, 7)
    for i, alpha in enumerate(alphas.tolist()):
        torch.testing.assert_close(got[:, i], relevance_weights(relevance, alpha))
    assert relevance_weights(relevance[0], alphas).shape == (3, 7)
    each = relevance_weights(relevance, torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    torch.testing.assert_close(each[3, 0], relevance[3] ** 3)
    assert torch.equal(relevance_weights(relevance, 0.0), torch.ones(4, 7))


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf"), torch.tensor([0.5, -1.0])])
def test_bad_alpha_is_named(alpha: float | torch.Tensor) -> None:
    with pytest.raises(ResPruneError, match="alpha"):
        relevance_weights(torch.ones(3), alpha)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "mx"}, "Did you mean 'max'"),
        ({"normalization": "min-max"}, "Did you mean 'minmax'"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"nouns": torch.ones(2, 3)}, "width"),
        ({"tokens": torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])}, "row 1"),
        ({"nouns": torch.tensor([[torch.inf, 1.0]])}, "nouns hold a non-finite"),
        ({"nouns": torch.ones(2)}, "shape"),
        ({"tokens": torch.ones(2, 2, dtype=torch.int64)}, "floating-point"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    call: dict[str, object] = {"tokens": torch.eye(2), "nouns": torch.eye(2)}
    with pytest.raises(ResPruneError, match=message):
        relevance_scores(**{**call, **change})
