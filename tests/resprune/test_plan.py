"""Plans against steps taken by hand, and what the seam does not let through."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resprune import methods
from resprune.alpha import prompt_features, question_form
from resprune.backbones import VisualTokens, for_model
from resprune.budget import Energy
from resprune.errors import ConfigError, ResPruneError
from resprune.methods import Batch, Inputs, Method, Nested, Selection, base
from resprune.nouns import NounExtractor
from resprune.options import Options
from resprune.plan import (
    Plan,
    choose_setting,
    cosines_of,
    everything,
    inputs_of,
    needs_of,
    plan_images,
    plan_inputs,
    signals_of,
)
from resprune.prompt import Prompt, PromptReader
from resprune.setting import Adaptive, Setting, unpruned
from resprune.subspace.energy import energy_curve


@pytest.fixture(scope="module")
def reader(tiny_llava: tuple[Any, Any]) -> PromptReader:
    return PromptReader(for_model(*tiny_llava), NounExtractor("resprune_en_nouns"))


@pytest.fixture(scope="module")
def dog(reader: PromptReader) -> Prompt:
    return reader.read("What color is the dog?")


def encoded(width: int, rows: int = 4, columns: int = 4, seed: int = 0) -> VisualTokens:
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows * columns, width, generator=draw)
    attention = torch.rand(rows * columns, generator=draw)
    return VisualTokens(tokens, {"cls_attention": attention}, (rows, columns))


@pytest.fixture
def visual(reader: PromptReader) -> VisualTokens:
    return encoded(reader.backbone.width)


def planned(visual: VisualTokens, prompt: Prompt | None, setting: Setting) -> Plan:
    return plan_images([visual], [prompt], [setting], [""])[0]


def order_of(plan: Plan) -> list[int]:
    assert plan.order is not None
    found: list[int] = plan.order.tolist()
    return found


# -- setting + image + prompt -> plan -----------------------------------------------------------


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
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_equals_the_steps_by_hand(
    dog: Prompt, visual: VisualTokens, alpha: float, pooling: str
) -> None:
    assert dog.nouns == ["color", "dog"]
    setting = Setting.of("resprune", 6, alpha=alpha, seed_strategy="cls_attention", pooling=pooling)
    found = planned(visual, dog, setting)

    tokens, nouns = visual.tokens.double().numpy(), dog.embeddings.double().numpy()
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    cosines = unit(tokens) @ unit(nouns).T
    best = cosines.max(axis=1) if pooling == "max" else cosines.mean(axis=1)
    relevance = np.maximum((best - best.min()) / (best.max() - best.min()), 0.01)
    first = int(visual.signals["cls_attention"].argmax())
    expected = greedy_by_hand(tokens, relevance**alpha, 6, first)
    assert order_of(found) == expected
    assert found.kept.tolist() == sorted(expected)
    assert found.positions == "keep"
    assert found.features is None
    given = inputs_of(visual, dog, setting).relevance
    if alpha == 0:
        assert given is None  # not read, so not made
    else:
        assert given is not None
        np.testing.assert_allclose(given.numpy(), relevance, atol=1e-5)


def test_a_question_without_words_is_pure_geometry(
    reader: PromptReader, visual: VisualTokens
) -> None:
    prompt = reader.read("")
    assert prompt.nouns == []
    found = planned(visual, prompt, Setting.of("resprune", 5, alpha=4.0))
    plain = planned(visual, None, Setting.of("resprune", 5, alpha=0.0))
    assert order_of(found) == order_of(plain)


def test_each_image_has_its_own_setting_size_and_prompt(reader: PromptReader) -> None:
    width = reader.backbone.width
    images = [encoded(width, 4, 4, 0), encoded(width, 3, 5, 1), encoded(width, 2, 2, 2)] * 2
    prompts = [reader.read(text) for text in ("a dog", "a cat on the table", "")] * 2
    near = Setting.of("resprune", 6, alpha=1.0)
    chosen = [near, near, near, near.at(0.5), Setting.of("pool", 3), Setting.of("random", 2)]
    keys = [f"sample {i}" for i in range(6)]
    together = plan_images(images, prompts, chosen, keys)
    for i, found in enumerate(together):
        [alone] = plan_images([images[i]], [prompts[i]], [chosen[i]], [keys[i]])
        assert order_of(found) == order_of(alone)
        assert found.key() == alone.key()
        assert len(found.kept) == chosen[i].budget.limit(len(images[i].tokens))
        method = methods.get(chosen[i].method)
        given = inputs_of(images[i], prompts[i], chosen[i], keys[i])
        single = method.select(given, len(found.kept), chosen[i].options)
        assert order_of(found) == single.indices.tolist()


def test_random_draws_anew_for_each_key(visual: VisualTokens) -> None:
    plans = plan_images([visual] * 3, [None] * 3, [Setting.of("random", 5)] * 3, ["a", "b", "a"])
    assert order_of(plans[0]) == order_of(plans[2]) != order_of(plans[1])


def test_methods_are_told_where_tokens_lie(visual: VisualTokens) -> None:
    given = inputs_of(visual, None, Setting.of("pool", 4), "key")
    assert given.places is not None
    assert given.places.tolist() == [[0, i // 4, i % 4] for i in range(16)]
    assert (given.key, given.relevance) == ("key", None)
    assert given.signals == visual.signals


def test_unpruned_is_everything(visual: VisualTokens) -> None:
    found = planned(visual, None, unpruned())
    assert found.kept.tolist() == list(range(16))
    assert found.key() == everything(16).key()


# -- energy budgets -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["resprune", "cdpruner", "divprune", "random"])
def test_energy_cuts_the_order(dog: Prompt, visual: VisualTokens, method: str) -> None:
    whole = planned(visual, dog, Setting.of(method, 1.0))
    assert whole.order is not None
    given = inputs_of(visual, dog, Setting.of(method, 1.0))
    weights = methods.get(method).weights(given, methods.get(method).options())
    left = energy_curve(visual.tokens, whole.order, weights).tolist()
    counts = set()
    for energy in (0.9, 0.5, 0.2, 0.01):
        setting = Setting.of(method, Energy(energy=energy, most=12, least=2))
        found = planned(visual, dog, setting)
        count = next((k for k in range(2, 12) if left[k - 1] <= energy), 12)
        assert order_of(found) == order_of(whole)[:count]
        assert found.kept.tolist() == sorted(order_of(whole)[:count])
        counts.add(count)
    assert len(counts) > 2


# -- the key ------------------------------------------------------------------------------------


def test_the_key_is_what_tells_plans_apart() -> None:
    kept = torch.tensor([1, 4, 7])
    plan = Plan(kept)
    assert plan.key() == Plan(kept.int(), order=kept.flip(0)).key()
    merged = Plan(kept, features=torch.zeros(3, 2), maker='{"method":"a"}')
    others = [
        Plan(torch.tensor([1, 4, 8])),
        Plan(torch.tensor([1, 4])),
        Plan(kept, "compact"),
        merged,
        replace(merged, maker='{"method":"b"}'),
    ]
    assert len({plan.key(), *(other.key() for other in others)}) == 6
    assert replace(merged, features=torch.ones(3, 2)).key() == merged.key()


def test_the_maker_is_method_version_and_options(visual: VisualTokens) -> None:
    setting = Setting.of("visionzip", 8, contextual=0.5)
    found = planned(visual, None, setting)
    assert json.loads(found.maker) == {
        "method": "visionzip",
        "version": "1",
        "options": {"contextual": 0.5},
    }
    assert planned(visual, None, Setting.of("l2_norm", 8)).maker == ""


# -- what the seam does not let through ---------------------------------------------------------


class NoOptions(Options):
    pass


@pytest.fixture
def join() -> Iterator[Callable[..., Setting]]:
    """Register a method made of one function, and return a setting of it."""
    before = dict(base._METHODS)

    def make(function: Any, budget: Any = 3, *, batched: bool = False) -> Setting:
        def select(self: Any, image: Inputs, k: int, options: Any) -> Selection:
            return function(image, k)

        def order_many(self: Any, batch: Batch, options: Any, k: int) -> Tensor:
            return function(batch, k)

        parts = {"name": "made", "options": NoOptions, "select": select, "order_many": order_many}
        methods.register(type("Made", (Nested if batched else Method,), parts))
        return Setting.of("made", budget)

    yield make
    base._METHODS.clear()
    base._METHODS.update(before)


@pytest.mark.parametrize(
    "indices",
    [
        [0, 1],
        [0, 1, 2, 3],
        [0, 1, 1],
        [0, 1, 16],
        [0, 1, -1],
        [0.0, 1.0, 2.0],
        [True, True, True],
        [[0], [1], [2]],
    ],
    ids=str,
)
def test_anything_but_min_k_t_unique_indices_is_an_error(
    join: Callable[..., Setting], visual: VisualTokens, indices: list[Any]
) -> None:
    setting = join(lambda image, k: Selection(torch.tensor(indices)))
    with pytest.raises(ResPruneError, match=r"'made' .* exactly\s+min\(k, T\)"):
        planned(visual, None, setting)


@pytest.mark.parametrize(
    "order",
    [[[0, 1]], [[0, 1, 1]], [[0, 1, 16]], [[0, 1, -1]], [[3, 2, 3, 4]]],
    ids=str,
)
def test_batched_orders_are_checked_alike(
    join: Callable[..., Setting], visual: VisualTokens, order: list[list[int]]
) -> None:
    setting = join(lambda batch, k: torch.tensor(order)[:, None, None], batched=True)
    with pytest.raises(ResPruneError, match=r"'made' kept .* exactly min\(k, T\)"):
        planned(visual, None, setting)


def test_one_bad_image_of_a_batch_is_enough(join: Callable[..., Setting]) -> None:
    images = [Inputs(torch.ones(16, 2)), Inputs(torch.ones(4, 2))]
    orders = torch.tensor([[0, 9, 2, 5, 7], [3, 0, 1, 2, -1]])
    setting = join(lambda batch, k: orders[:, None, None], 5, batched=True)
    assert [order_of(plan) for plan in plan_inputs(images, setting)] == [
        [0, 9, 2, 5, 7],
        [3, 0, 1, 2],
    ]
    orders[1, 3] = 4  # in range of the longer image alone
    with pytest.raises(ResPruneError, match="'made' kept an index twice or out of range"):
        plan_inputs(images, setting)


@pytest.mark.parametrize("shape", [(3, 5), (2, 32), (4, 32), (3,)])
def test_features_have_a_row_a_kept_token(
    join: Callable[..., Setting], visual: VisualTokens, shape: tuple[int, ...]
) -> None:
    setting = join(lambda image, k: Selection(torch.arange(3), torch.zeros(shape)))
    assert visual.tokens.shape[1] == 32
    with pytest.raises(ResPruneError, match=r"'made' gave features of shape .*\(3, 32\)"):
        planned(visual, None, setting)


def test_replaced_features_follow_the_sorted_indices(join: Callable[..., Setting]) -> None:
    def merge(image: Inputs, k: int) -> Selection:
        return Selection(torch.tensor([7, 2, 5]), torch.tensor([[7.0], [2.0], [5.0]]))

    [found] = plan_inputs([Inputs(torch.ones(16, 1))], join(merge))
    assert found.kept.tolist() == [2, 5, 7]
    assert found.features is not None
    assert found.features.flatten().tolist() == [2, 5, 7]
    assert order_of(found) == [7, 2, 5]


@pytest.mark.parametrize("method", ["resprune", "l2_norm", "pool"])
def test_an_empty_image_is_refused(method: str) -> None:
    empty = VisualTokens(torch.zeros(0, 4))
    with pytest.raises(ResPruneError, match="at least one token"):
        planned(
            empty, None, Setting.of(method, 3, **{"alpha": 0.0} if method == "resprune" else {})
        )


# -- what is read -------------------------------------------------------------------------------


def test_needs_of_a_policy() -> None:
    arms = tuple(Setting.of("resprune", 5, alpha=alpha) for alpha in (0.0, 1.0))
    assert needs_of(arms[0]) == frozenset()
    assert needs_of(arms[1]) == {"relevance", "nouns"}
    assert needs_of(Adaptive(arms=arms, fallback=0)) == {"relevance", "nouns"}
    seeds = tuple(
        Setting.of("resprune", 5, alpha=0.0, seed_strategy=name)
        for name in ("none", "cls_attention")
    )
    assert needs_of(Adaptive(arms=seeds, fallback=0)) == {"cls_attention", "nouns"}
    assert needs_of(Setting.of("vispruner", 5)) == {"attention"}
    assert needs_of(Setting.of("scope", 5, exponent=0.0)) == frozenset()


@pytest.mark.parametrize(
    ("needs", "offered", "expected"),
    [
        ({"attention"}, ("cls_attention",), {"cls_attention"}),
        ({"attention"}, ("cls_attention", "received_attention"), {"cls_attention"}),
        ({"attention"}, ("received_attention",), {"received_attention"}),
        ({"attention"}, (), {"cls_attention"}),  # refused by require_signals
        ({"cls_attention"}, ("received_attention",), {"cls_attention"}),  # never replaced
        ({"relevance", "nouns"}, ("cls_attention",), set()),
        ({"saliency", "relevance"}, ("saliency",), {"saliency"}),
    ],
)
def test_signals(needs: set[str], offered: tuple[str, ...], expected: set[str]) -> None:
    assert signals_of(needs, offered) == expected


def test_cosines(reader: PromptReader, visual: VisualTokens) -> None:
    prompt = reader.read("Is the dog near the table?")
    cosines = cosines_of(visual, prompt)
    assert cosines.shape == (len(prompt.nouns), 16)
    for noun, row in zip(prompt.embeddings, cosines, strict=True):
        expected = torch.nn.functional.cosine_similarity(visual.tokens, noun[None])
        torch.testing.assert_close(row, expected)


# -- policy -> setting --------------------------------------------------------------------------


class _Predictor:
    """Stands for a fitted predictor."""

    def __init__(self) -> None:
        self.seen: list[tuple[np.ndarray, list[str], Any]] = []

    def arms_for(self, features: np.ndarray, forms: list[str], budget: Any) -> np.ndarray:
        self.seen.append((features, forms, budget))
        return np.array([2])

    def outside(self, features: np.ndarray, forms: list[str]) -> np.ndarray:
        self.seen.append((features, forms, None))
        return np.array([True])


def test_an_adaptive_policy_reads_the_prompt(dog: Prompt, visual: VisualTokens) -> None:
    predictor: Any = _Predictor()
    arms = tuple(Setting.of("resprune", 5, alpha=alpha) for alpha in (0.0, 0.5, 2.5))
    policy = Adaptive(arms=arms, fallback=0)
    assert choose_setting(policy, predictor, dog, visual) == (arms[2], True)
    expected = prompt_features(dog.context(cosines_of(visual, dog)))
    for features, forms, _ in predictor.seen:
        np.testing.assert_allclose(features, expected[None])
        assert forms == [question_form(dog.question, dog.tags)] != [""]
    assert [budget for *_, budget in predictor.seen] == [policy.budget, None]
    assert choose_setting(arms[1], None, dog, visual) == (arms[1], False)
    with pytest.raises(ConfigError, match=r"budget 5 is adaptive and there is no alpha_predictor"):
        choose_setting(policy, None, dog, visual)
