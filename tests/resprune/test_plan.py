"""Selection against steps taken by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from resprune import methods
from resprune.alpha import prompt_features
from resprune.backbones import VisualTokens, for_model
from resprune.config import BudgetEntry, PruningConfig
from resprune.errors import ConfigError, ResPruneError
from resprune.nouns import NounExtractor
from resprune.selection import (
    Prompt,
    PromptReader,
    choose_alpha,
    needed_signals,
    relevance_of,
    resolve_budget,
    select,
)


@pytest.fixture(scope="module")
def reader(tiny_llava: tuple[Any, Any]) -> PromptReader:
    return PromptReader(for_model(*tiny_llava), NounExtractor("resprune_en_nouns"))


@pytest.fixture
def visual(reader: PromptReader) -> VisualTokens:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(16, reader.backbone.width, generator=generator)
    attention = torch.rand(16, generator=generator)
    return VisualTokens(tokens, {"cls_attention": attention}, (4, 4))


def greedy_by_hand(tokens: np.ndarray, weights: np.ndarray, k: int, first: int) -> list[int]:
    """Projection from scratch at every step, in float64."""
    chosen = [first]
    while len(chosen) < k:
        basis, _ = np.linalg.qr(tokens[chosen].T)
        residual = tokens - tokens @ basis @ basis.T
        score = (residual**2).sum(axis=1) * weights
        score[chosen] = -1
        chosen.append(int(score.argmax()))
    return chosen


@pytest.mark.parametrize("alpha", [0.0, 0.75, 3.0])
def test_equals_the_steps_by_hand(reader: PromptReader, visual: VisualTokens, alpha: float) -> None:
    prompt = reader.read("What color is the dog?")
    assert prompt.nouns == ["color", "dog"]
    config = PruningConfig.single(6, alpha=alpha, seed_strategy="cls_attention")
    found = select(visual, prompt, config.entry(), config)

    tokens, nouns = visual.tokens.double().numpy(), prompt.embeddings.double().numpy()
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    best = (unit(tokens) @ unit(nouns).T).max(axis=1)
    relevance = np.maximum((best - best.min()) / (best.max() - best.min()), 0.01)
    first = int(visual.signals["cls_attention"].argmax())
    expected = greedy_by_hand(tokens, relevance**alpha, 6, first)
    assert found.order.tolist() == expected
    assert found.kept.tolist() == sorted(expected)
    assert found.alpha == alpha
    np.testing.assert_allclose(found.relevance.numpy(), relevance, atol=1e-5)


def test_a_question_without_words_is_pure_geometry(
    reader: PromptReader, visual: VisualTokens
) -> None:
    prompt = reader.read("")
    assert prompt.nouns == []
    config = PruningConfig.single(5, alpha=4.0)
    plain = PruningConfig.single(5, alpha=0.0)
    found = select(visual, prompt, config.entry(), config)
    assert found.relevance.tolist() == [1.0] * 16
    assert torch.equal(found.order, select(visual, prompt, plain.entry(), plain).order)


def test_cosines(reader: PromptReader, visual: VisualTokens) -> None:
    prompt = reader.read("Is the dog near the table?")
    _, cosines = relevance_of(visual, prompt)
    assert cosines.shape == (len(prompt.nouns), 16)
    for noun, row in zip(prompt.embeddings, cosines, strict=True):
        expected = torch.nn.functional.cosine_similarity(visual.tokens, noun[None])
        torch.testing.assert_close(row, expected)


def test_questions_are_remembered(tiny_llava: tuple[Any, Any]) -> None:
    reader = PromptReader(for_model(*tiny_llava), NounExtractor("resprune_en_nouns"), cache_size=2)
    first = reader.read("a dog")
    assert reader.read("a dog") is first
    reader.read("a cat")
    assert reader.read("a dog") is first
    reader.read("a table")
    assert reader.read("a dog") is first
    assert reader.read("a cat") == reader.read("a cat")
    assert len(reader._cache) == 2


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
def test_budget(budget: int | float, tokens: int, count: int) -> None:
    assert resolve_budget(budget, tokens) == count


@pytest.mark.parametrize("budget", [0, -1, 0.0, -0.5, 1.5, float("nan"), True, "5"])
def test_wrong_budget(budget: Any) -> None:
    with pytest.raises(ResPruneError, match="budget is"):
        resolve_budget(budget, 16)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(ResPruneError, match="0 visual tokens"):
        resolve_budget(5, 0)


@pytest.mark.parametrize("alpha", [-0.1, 16.5, float("nan"), True, "1"])
def test_wrong_alpha(reader: PromptReader, visual: VisualTokens, alpha: Any) -> None:
    config = PruningConfig.single(5)
    with pytest.raises(ConfigError, match="alpha is"):
        select(visual, reader.read("a dog"), config.entry(), config, alpha)


def test_needed_signals() -> None:
    def needed(strategy: Any, method: str = "resprune") -> Mapping[str, Any] | frozenset[str]:
        config = PruningConfig.single(5, seed_strategy=strategy, method=method)
        return needed_signals(config.entry(), config)

    assert needed("cls_attention") == {"cls_attention"}
    assert needed("l2_norm") == frozenset()
    assert needed("none") == frozenset()
    assert needed("cls_attention", "random") == frozenset()


@pytest.mark.parametrize("method", ["cls_attention", "scope", "visionzip", "vispruner"])
def test_methods_that_rank_by_attention_serve_towers_without_cls(method: str) -> None:
    config = PruningConfig.single(5, method=method)
    entry, without = config.entry(), ("received_attention",)
    assert needed_signals(entry, config) == {"cls_attention"}
    assert needed_signals(entry, config, ("cls_attention", *without)) == {"cls_attention"}
    assert needed_signals(entry, config, without) == {"received_attention"}
    assert needed_signals(entry, config, ()) == {"cls_attention"}  # refused by require_signals


def test_a_seed_strategy_is_never_replaced() -> None:
    config = PruningConfig.single(5, seed_strategy="cls_attention")
    offered = ("received_attention",)
    assert needed_signals(config.entry(), config, offered) == {"cls_attention"}


def test_random_depends_on_the_seed(reader: PromptReader, visual: VisualTokens) -> None:
    config = PruningConfig.single(5, method="random")
    prompt = reader.read("a dog")
    picks = [
        select(visual, prompt, config.entry(), config, seed=seed).kept.tolist()
        for seed in (0, 0, 1)
    ]
    assert picks[0] == picks[1] != picks[2]


def test_replaced_features_follow_the_sorted_indices(
    reader: PromptReader, visual: VisualTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Merging:
        def select(self, inputs: Any, k: int, options: Any) -> methods.Selection:
            return methods.Selection(torch.tensor([7, 2, 5]), torch.tensor([[7.0], [2.0], [5.0]]))

    monkeypatch.setattr(methods, "get", lambda name: Merging())
    config = PruningConfig.single(3)
    found = select(visual, reader.read("a dog"), config.entry(), config)
    assert found.kept.tolist() == [2, 5, 7]
    assert found.features is not None
    assert found.features.flatten().tolist() == [2, 5, 7]


class _Predictor:
    """Stands for a fitted predictor."""

    def __init__(self) -> None:
        self.seen: list[tuple[np.ndarray, Any]] = []

    def alpha(self, features: np.ndarray, budget: Any) -> float:
        self.seen.append((features, budget))
        return 2.5


def test_adaptive_alpha_reads_the_prompt(reader: PromptReader, visual: VisualTokens) -> None:
    predictor = _Predictor()
    config = PruningConfig.single(5)
    object.__setattr__(config, "_predictor", predictor)
    entry = BudgetEntry(budget=5, alpha="adaptive")
    prompt: Prompt = reader.read("What color is the dog?")
    found = select(visual, prompt, entry, config)
    assert found.alpha == 2.5
    _, cosines = relevance_of(visual, prompt)
    expected = prompt_features(prompt.context(cosines))
    [(features, budget)] = predictor.seen
    np.testing.assert_allclose(features, expected)
    assert budget == 5
    assert choose_alpha(BudgetEntry(budget=5, alpha=1.5), config, prompt, None) == 1.5


def test_adaptive_alpha_needs_a_predictor(reader: PromptReader) -> None:
    entry = BudgetEntry(budget=5, alpha="adaptive")
    with pytest.raises(ConfigError, match="no alpha predictor"):
        choose_alpha(entry, PruningConfig.single(5), reader.read("a dog"), None)
