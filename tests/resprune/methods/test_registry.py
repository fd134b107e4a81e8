"""The registry, and the contract that every method keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from resprune import methods
from resprune.errors import ResPruneError
from resprune.methods import MethodOptions, SelectionInput
from resprune.subspace import reference_order

OPTIONS = MethodOptions(seed=3)
READ_IF_GIVEN = {"cdpruner": {"image_embeds", "text_embeds"}, "visionzip": {"keys"}}


def image(count: int, width: int = 12, seed: int = 0) -> SelectionInput:
    """An image with everything a method may ask for."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    return SelectionInput(
        tokens=torch.randn(count, width, generator=generator),
        relevance=rand(count).clamp_min(0.01),
        signals={"cls_attention": rand(count), "received_attention": rand(count)},
        extras={
            "image_embeds": torch.randn(count, 8, generator=generator),
            "text_embeds": torch.randn(3, 8, generator=generator),
            "keys": torch.randn(count, 6, generator=generator),
        },
    )


def degenerate(kind: str, count: int = 21) -> SelectionInput:
    """An image on which published rules break."""
    inputs = image(count)
    tokens = inputs.tokens
    if kind == "zeros":
        tokens = torch.zeros_like(tokens)
    elif kind == "duplicates":
        tokens = tokens[:1].expand(count, -1).clone()
    elif kind == "rank one":
        tokens = torch.outer(torch.linspace(-1, 1, count), tokens[0])
    elif kind == "bfloat16":
        tokens = tokens.bfloat16()
    elif kind == "flat signals":
        return SelectionInput(
            tokens,
            torch.ones(count),
            {name: torch.zeros(count) for name in inputs.signals},
            {name: torch.zeros_like(value) for name, value in inputs.extras.items()},
        )
    return SelectionInput(tokens, inputs.relevance, inputs.signals, inputs.extras)


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.parametrize("count", [1, 2, 21])
def test_exactly_the_budget_and_no_token_twice(name: str, count: int) -> None:
    method = methods.get(name)
    for k in range(1, count + 3):
        chosen = method.select(image(count), k, OPTIONS)
        kept = min(k, count)
        assert chosen.indices.dtype == torch.int64
        assert chosen.indices.shape == (kept,)
        assert len(set(chosen.indices.tolist())) == kept
        assert set(chosen.indices.tolist()) <= set(range(count))
        if chosen.features is not None:
            assert chosen.features.shape == (kept, 12)
            assert torch.isfinite(chosen.features).all()


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.parametrize("kind", ["zeros", "duplicates", "rank one", "bfloat16", "flat signals"])
def test_the_budget_holds_where_published_rules_break(name: str, kind: str) -> None:
    inputs = degenerate(kind)
    for k in (1, 2, 5, 13, 20, 21):
        chosen = methods.get(name).select(inputs, k, OPTIONS)
        assert len(set(chosen.indices.tolist())) == k
        assert chosen.features is None or chosen.features.dtype == inputs.tokens.dtype


@pytest.mark.parametrize("name", methods.names())
def test_nested_means_prefix_and_calls_repeat(name: str) -> None:
    method = methods.get(name)
    inputs = image(21)
    full = method.select(inputs, 21, OPTIONS).indices.tolist()
    assert method.select(inputs, 21, OPTIONS).indices.tolist() == full
    for k in range(1, 21):
        if method.nested:
            assert method.select(inputs, k, OPTIONS).indices.tolist() == full[:k]


@pytest.mark.parametrize("name", methods.names())
def test_only_what_is_named_in_needs_is_read(name: str) -> None:
    method = methods.get(name)
    inputs = image(15)
    read = method.needs | READ_IF_GIVEN.get(name, set())
    bare = SelectionInput(
        inputs.tokens,
        inputs.relevance if "relevance" in read else None,
        {key: value for key, value in inputs.signals.items() if key in read},
        {key: value for key, value in inputs.extras.items() if key in read},
    )
    expected = method.select(inputs, 6, OPTIONS).indices.tolist()
    assert method.select(bare, 6, OPTIONS).indices.tolist() == expected
    if method.needs:
        with pytest.raises(ResPruneError, match=f"{name}.*needs"):
            method.select(SelectionInput(inputs.tokens), 6, OPTIONS)


@pytest.mark.parametrize("name", methods.names())
def test_bad_input_is_named(name: str) -> None:
    method = methods.get(name)
    for k in (0, -1):
        with pytest.raises(ResPruneError, match="budget"):
            method.select(image(4), k, OPTIONS)
    with pytest.raises(ResPruneError, match="at least one token"):
        method.select(SelectionInput(torch.zeros(0, 4)), 1, OPTIONS)
    broken = image(4)
    broken.tokens[2, 1] = torch.nan
    with pytest.raises(ResPruneError, match="non-finite"):
        method.select(broken, 2, OPTIONS)


def test_the_rivals_that_choose_before_the_llm_are_here() -> None:
    assert set(methods.names()) >= {
        *("resprune", "random", "l2_norm", "cls_attention", "relevance", "divprune", "cdpruner"),
        *("scope", "visionzip", "vispruner"),
    }


@pytest.mark.parametrize("name", ["cls_attention", "scope", "visionzip", "vispruner"])
def test_received_attention_stands_in_for_towers_without_cls(name: str) -> None:
    inputs = image(15)
    received = inputs.signals["received_attention"]
    choices = [
        methods.get(name).select(SelectionInput(inputs.tokens, signals=signals), 6, OPTIONS)
        for signals in ({"received_attention": received}, {"cls_attention": received})
    ]
    assert choices[0].indices.tolist() == choices[1].indices.tolist()


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(ResPruneError, match="Did you mean 'resprune'"):
        methods.get("resprun")


def test_a_name_cannot_be_taken_twice() -> None:
    class Impostor(type(methods.get("random"))):  # type: ignore[misc]
        name = "random"

    with pytest.raises(ResPruneError, match="taken"):
        methods.register(Impostor)


def test_resprune_is_the_reference_with_weights_and_seed() -> None:
    inputs = image(30, seed=5)
    assert inputs.relevance is not None
    seed = int(inputs.signals["cls_attention"].argmax())
    options = MethodOptions(alpha=1.5, seed_strategy="cls_attention")
    expected = reference_order(inputs.tokens, inputs.relevance**1.5, 12, seed).tolist()
    assert methods.get("resprune").select(inputs, 12, options).indices.tolist() == expected


def test_resprune_at_alpha_zero_needs_no_relevance() -> None:
    inputs = image(30, seed=6)
    options = MethodOptions(alpha=0.0, seed_strategy="none")
    chosen = methods.get("resprune").select(SelectionInput(inputs.tokens), 12, options)
    assert chosen.indices.tolist() == reference_order(inputs.tokens, torch.ones(30), 12).tolist()


def test_random_depends_on_the_seed_alone() -> None:
    method = methods.get("random")
    draws = [method.select(image(40), 40, MethodOptions(seed=s)).indices.tolist() for s in range(3)]
    again = method.select(image(40, seed=9), 40, MethodOptions(seed=1)).indices.tolist()
    assert again == draws[1]
    assert draws[0] != draws[1] != draws[2]
    picks = torch.zeros(10)
    for seed in range(3000):
        picks[method.select(image(10), 3, MethodOptions(seed=seed)).indices] += 1
    # 900 expected, standard deviation 25
    assert (picks - 900).abs().max() < 125
