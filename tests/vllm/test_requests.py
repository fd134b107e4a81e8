"""Requests that ask for something of their own, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from resprune import PruningConfig, Setting
from studies.nano import model_dir
from tests.vllm.harness import Asked, Oracle, Served, pairs, serve

_CONFIG = PruningConfig.from_dict(
    {
        "default": {"count": 22},
        "table": [
            Setting.of("resprune", budget, alpha=0.75, positions="compact") for budget in (22, 98)
        ],
    }
)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(model_dir("nano-llava"), _CONFIG, enable_mm_embeds=True) as found:
        yield found


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(model_dir("nano-llava"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resprune_budget": 23}, "budget 23 is not in the pruning config; it lists 22, 98"),
        ({"resprune_budget": "many"}, "not in the pruning config"),
        ({"resprune_question": "a star"}, "resprune_question cannot be given"),
        ({"resprune_policy": "0"}, "resprune_policy cannot be given"),
    ],
)
def test_refused_and_the_engine_lives_on(
    served: Served, oracle: Oracle, arguments: Any, message: str
) -> None:
    asked = pairs("nano-llava", 2)
    with pytest.raises(ValueError, match=message):
        served.ask([oracle.served(asked[0], **arguments)])
    ids, lengths = served.ask([oracle.served(each) for each in asked])
    expected = oracle.answers(asked, _CONFIG)
    assert (ids, lengths) == (expected.ids, expected.lengths)


def test_two_budgets_in_one_batch(served: Served, oracle: Oracle) -> None:
    asked = pairs("nano-llava", 4)
    served.forget()
    budgets = [22, 98] * 4
    prompts = [
        oracle.served(each, resprune_budget=budget)
        for each, budget in zip(asked, budgets, strict=True)
    ]
    ids, lengths = served.ask(prompts)
    for place, (each, budget) in enumerate(zip(asked, budgets, strict=True)):
        expected = oracle.answers([each], _CONFIG, budget)
        assert ids[place] == expected.ids[0]
        assert lengths[place] == expected.lengths[0]


def test_embeddings_of_an_image_are_refused(served: Served, oracle: Oracle) -> None:
    (asked,) = pairs("nano-llava", 1, 1)
    prompt = oracle.served(asked)
    width = served.llm.model_config.get_inputs_embeds_size()
    prompt["multi_modal_data"] = {"image": torch.zeros(1, 196, width)}
    with pytest.raises(ValueError, match="image_embeds are not pruned"):
        served.ask([prompt])
    assert served.ask([oracle.served(asked)])[1] == [32]


def test_an_image_whose_features_overflow_stops_no_other(
    served: Served, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pairs("nano-llava", 4, 1)
    expected = oracle.answers(asked, _CONFIG)
    encode, spent, ill = served.model.encode, served.model._selecting.spent, [True]

    def overflowing(*arguments: Any) -> Any:
        found = encode(*arguments)
        if ill:
            found[0].visual.tokens[5] = float("inf")
            ill.clear()
        return found

    monkeypatch.setattr(served.model, "encode", overflowing)
    served.forget()
    ids, lengths = served.ask([oracle.served(each) for each in asked])
    assert lengths == expected.lengths
    assert ids[1:] == expected.ids[1:]
    assert spent.failed == 1
    served.forget()
    assert served.ask([oracle.served(each) for each in asked])[0] == expected.ids


def test_a_prompt_without_an_image_passes(served: Served, oracle: Oracle) -> None:
    ids, _ = served.ask([{"prompt": oracle.prompt(Asked("what color is the star?", ()))}])
    assert len(ids[0]) > 0


def test_images_and_kept_tokens_are_counted(served: Served, oracle: Oracle) -> None:
    from prometheus_client import REGISTRY

    def counted() -> tuple[float, ...]:
        names = ("resprune:images_total", "resprune:visual_tokens_kept_total")
        return tuple(REGISTRY.get_sample_value(name) or 0.0 for name in names)

    images, tokens = counted()
    served.ask([oracle.served(each) for each in pairs("nano-llava", 3)])
    assert counted() == (images + 6, tokens + 6 * 22)
