"""Seed strategies against a plain loop."""

from __future__ import annotations

import pytest
import torch

from resprune.errors import ResPruneError
from resprune.seeds import SEED_STRATEGIES, seed_index, seed_index_batch

TOKENS = torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 0.0], [0.0, 2.0]])
RELEVANCE = torch.tensor([0.2, 0.1, 0.9, 0.9])
SIGNALS = {
    "cls_attention": torch.tensor([0.1, 0.2, 0.2, 0.7]),
    "received_attention": torch.tensor([0.9, 0.2, 0.2, 0.7]),
}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("cls_attention", 3),
        ("received_attention", 0),
        ("l2_norm", 1),
        ("relevance", 2),
        ("none", None),
    ],
)
def test_each_strategy(strategy: str, expected: int | None) -> None:
    got = seed_index(strategy, tokens=TOKENS, relevance=RELEVANCE, signals=SIGNALS)
    if expected is None:
        assert got is None
    else:
        assert got is not None
        assert got.shape == ()
        assert got.item() == expected


def test_every_strategy_is_tested() -> None:
    assert set(SEED_STRATEGIES) == {
        "cls_attention",
        "received_attention",
        "l2_norm",
        "relevance",
        "none",
    }


def test_batches_ignore_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(6, 9, 3, generator=generator)
    signals = {"cls_attention": torch.rand(6, 9, generator=generator)}
    relevance = torch.rand(6, 9, generator=generator)
    lengths = torch.tensor([9, 1, 5, 3, 8, 2])
    for strategy in ("cls_attention", "l2_norm", "relevance"):
        got = seed_index_batch(
            strategy, tokens=tokens, relevance=relevance, signals=signals, lengths=lengths
        )
        assert got is not None
        for row, length in enumerate(lengths.tolist()):
            one = seed_index(
                strategy,
                tokens=tokens[row, :length],
                relevance=relevance[row, :length],
                signals={"cls_attention": signals["cls_attention"][row, :length]},
            )
            assert one is not None
            assert got[row].item() == one.item()


def test_norms_that_overflow_when_squared() -> None:
    tokens = torch.tensor([[1e30, 0.0], [3e30, 0.0], [2e30, 2.3e30]])
    got = seed_index("l2_norm", tokens=tokens)
    assert got is not None
    assert got.item() == 2


def test_an_absent_signal_says_what_to_use() -> None:
    with pytest.raises(
        ResPruneError, match=r"available signals: received_attention.*Use.*'received_attention'"
    ):
        seed_index("cls_attention", tokens=TOKENS, signals={"received_attention": torch.ones(4)})
    with pytest.raises(ResPruneError, match="'l2_norm' instead"):
        seed_index("cls_attention", tokens=TOKENS)
    with pytest.raises(ResPruneError, match="relevance"):
        seed_index("relevance", tokens=TOKENS)


def test_bad_input_is_named() -> None:
    with pytest.raises(ResPruneError, match="Did you mean 'cls_attention'"):
        seed_index("cls_atention", tokens=TOKENS)
    with pytest.raises(ResPruneError, match="one value a token"):
        seed_index("cls_attention", tokens=TOKENS, signals={"cls_attention": torch.ones(3)})
    with pytest.raises(ResPruneError, match="non-finite"):
        seed_index(
            "cls_attention", tokens=TOKENS, signals={"cls_attention": torch.full((4,), torch.nan)}
        )
    with pytest.raises(ResPruneError, match="at least one token"):
        seed_index("l2_norm", tokens=torch.zeros(0, 3))
