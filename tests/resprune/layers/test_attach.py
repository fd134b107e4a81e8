"""Policies that act inside the LLM, through ``attach``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import resprune
from resprune import PruningConfig, Setting
from resprune.errors import ConfigError, ResPruneError
from resprune.layers import LayerPruner
from resprune.plan import Rule
from resprune.testing.calls import greedy, new_tokens
from resprune.testing.case import Case
from resprune.testing.inside import generated

FASTV = Setting.of("fastv", 5, layer=11)
RANDOM = Setting.of("random", 20).then("fastv", 7, layer=11)
BEFORE = Setting.of("random", 0.5)
CONFIG = PruningConfig.from_dict({"table": (FASTV, RANDOM, BEFORE), "default": 5})


@pytest.fixture(params=["llava", "qwen2_5_vl", "llava_next", "gemma3"])
def case(deep: Any, request: pytest.FixtureRequest) -> Case:
    found: Case = deep(request.param)
    return found


@pytest.fixture
def handle(case: Case) -> Iterator[resprune.Attachment]:
    with resprune.attach(case.model, case.processor, CONFIG) as attachment:
        yield attachment


def rule_of(setting: Setting, count: int) -> Rule:
    later = setting.inside
    assert later is not None
    return Rule(later.method, later.options, count)


def test_answers_are_those_of_the_pruner(case: Case) -> None:
    """Two images are one pool of twice the count, a row without an image is left."""
    inputs = case.inputs([0, 2], [1], [])
    visual = case.backbone.encode(inputs)
    every = [torch.arange(len(image.tokens)) for image in visual]
    prepared = case.backbone.prepare(inputs, visual, every)
    rules = [rule_of(FASTV, 10), rule_of(FASTV, 5), None]
    with (
        LayerPruner(case.backbone) as pruner,
        pruner.prefill(rules, "keep", prepared.newlines) as left,
    ):
        expected = generated(case.model, prepared.kwargs)
    with resprune.attach(case.model, case.processor, CONFIG) as attachment:
        found = generated(case.model, inputs)
        record = attachment.last
    for one, two in zip(found.logits, expected.logits, strict=True):
        assert (one - two).abs().max() <= 1e-5
    assert record is not None
    assert [len(kept) for kept in record.kept] == [len(image.tokens) for image in visual]
    assert record.rows == [0, 0, 1]
    counts = [len(each) for each in record.left]
    assert counts[0] + counts[1] == 10
    assert counts[2] == 5
    whole = torch.cat([record.left[0], record.left[1] + len(visual[0].tokens)])
    assert whole.tolist() == left.last(0).tolist()
    tokens = [len(image.tokens) for image in visual]
    assert record.cost == [
        pytest.approx((2 * (tokens[0] + tokens[1]) + 4 * 10) / 6),
        pytest.approx((2 * tokens[2] + 4 * 5) / 6),
        0.0,
    ]


def test_a_method_before_the_llm_and_one_inside(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.inputs([0], [3])
    output = generated(case.model, inputs, budget=20)
    record = handle.last
    assert record is not None
    tokens = [min(20, total) for total in record.visual_tokens]
    assert [len(kept) for kept in record.kept] == tokens
    for kept, left in zip(record.kept, record.left, strict=True):
        assert len(left) == 7
        assert set(left.tolist()) <= set(kept.tolist())
    assert record.cost == [pytest.approx((2 * k + 4 * 7) / 6) for k in tokens]
    lengths = [output.past_key_values.get_seq_length(i) for i in range(6)]
    assert len(set(lengths[:2])) == len(set(lengths[2:])) == 1
    assert lengths[2] < lengths[0]
    # another policy of the same table does nothing inside
    generated(case.model, inputs, budget=0.5)
    record = handle.last
    assert record is not None
    assert record.inside is None
    assert record.left == record.kept
    assert record.cost == [float(len(kept)) for kept in record.kept]


def test_one_pass_and_steps_by_hand_equal_generate(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.inputs([0], [3])
    expected = new_tokens(greedy(case.model, inputs), inputs)
    with torch.no_grad():
        output = case.model(**inputs, use_cache=True)
        record = handle.last
        assert record is not None
        assert [len(left) for left in record.left] == [5, 5]
        assert record.next_positions is not None
        mask = torch.ones_like(output.logits[..., 0], dtype=torch.long)
        for row, places in enumerate(record.kept_positions):
            mask[row, : mask.shape[1] - len(places)] = 0
        found = [output.logits[:, -1].argmax(dim=-1)]
        for step in range(len(expected[0]) - 1):
            mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            output = case.model(
                input_ids=found[-1][:, None],
                attention_mask=mask,
                position_ids=record.next_positions[:, None] + step,
                past_key_values=output.past_key_values,
            )
            found.append(output.logits[:, -1].argmax(dim=-1))
    assert torch.stack(found, dim=1).tolist() == expected
    assert handle.last is record


def test_all_tokens_left_is_the_unpruned_model(case: Case) -> None:
    inputs = case.inputs([0], [3])
    expected = generated(case.model, inputs)
    config = PruningConfig.from_dict({"table": [Setting.of("fastv", 1.0)], "default": 1.0})
    with resprune.attach(case.model, case.processor, config):
        found = generated(case.model, inputs)
    for one, two in zip(found.logits, expected.logits, strict=True):
        assert (one - two).abs().max() <= 1e-5
    assert torch.equal(found.sequences, expected.sequences)


def test_what_cannot_be_served_is_refused_and_the_next_call_is_as_ever(
    case: Case, handle: resprune.Attachment
) -> None:
    inputs = case.inputs([0])
    expected = greedy(case.model, inputs)
    for options, message in (
        ({"use_cache": False}, "use_cache=False"),
        ({"prefill_chunk_size": 8}, "prefill_chunk_size=8"),
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
    ):
        with pytest.raises(ResPruneError, match=message):
            generated(case.model, inputs, **options)
    plain = greedy(case.model, inputs, budget=0.5)
    with pytest.raises(ValueError, match="nonsense"):  # by generate itself, when all was told
        greedy(case.model, inputs, nonsense=1)
    assert torch.equal(greedy(case.model, inputs, budget=0.5), plain)
    with pytest.raises(ResPruneError, match="the answer's own tokens"):
        case.model(**inputs, labels=inputs["input_ids"])
    with torch.no_grad():
        one = case.model(**inputs, budget=0.5, labels=inputs["input_ids"]).loss
    assert one.isfinite()
    assert torch.equal(greedy(case.model, inputs), expected)
    layer = case.model.get_decoder().layers[0]
    assert layer._forward_pre_hooks
    handle.detach()
    assert not layer._forward_pre_hooks


def test_a_config_that_does_not_fit_is_refused_at_once(case: Case) -> None:
    if case.backbone.position_axes == "1-D" and case.backbone.family != "gemma3":
        pytest.skip("positions may be renumbered here")
    setting = Setting.of("pyramiddrop", 5, positions="compact")
    config = PruningConfig.from_dict({"table": [setting], "default": 5})
    with pytest.raises(ConfigError, match="cannot be renumbered"):
        resprune.attach(case.model, case.processor, config)
    assert not case.model.get_decoder().layers[0]._forward_pre_hooks
