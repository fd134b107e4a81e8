"""Pruned generation equals that of a model which drops nothing but masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from resprune.errors import ConfigError
from resprune.layers import LayerPruner
from resprune.plan import Rule
from resprune.setting import Setting
from resprune.testing.inside import MaskingOracle, agree, dropped_of, generated, noted

FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma3")
METHODS = {  # of six layers, FastV and DART drop before layer 2
    "fastv": {"layer": 11},
    "dart": {"layer": 11, "image_pivots": 2, "text_pivots": 3},
    "pyramiddrop": {},
    "sparsevlm": {},
}
COUNT = 5


def rule(method: str = "fastv", count: int = COUNT) -> Rule:
    later = Setting.of(method, count, **METHODS[method]).inside
    assert later is not None
    return Rule(method, later.options, count)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_equals_the_oracle(
    deep: Any, family: str, method: str, positions: Any, rows: int
) -> None:
    case = deep(family)
    inputs = case.inputs(*[[0], [3], [2]][:rows])  # questions differ in length: padded in front
    rules = [rule(method, COUNT + row) for row in range(rows)]
    compact = positions == "compact" and family not in ("llava", "internvl")
    if compact or (family == "qwen3_vl" and method == "sparsevlm"):
        with pytest.raises(ConfigError, match="renumbered" if compact else "vision tower"):
            agree(case, inputs, rules, positions)
        return
    found, left = agree(case, inputs, rules, positions)
    ids, cache = inputs["input_ids"], found.past_key_values
    text = (ids != case.backbone.image_token_id) & inputs["attention_mask"].bool()
    layers = [cache.get_seq_length(i) for i in range(6)]
    assert layers[0] == ids.shape[1] + 5
    for layer, places in left.places.items():
        longest = max(int(row.sum()) + len(p) for row, p in zip(text, places, strict=True))
        assert layers[layer] == longest + 5
    assert layers[-1] < layers[0]
    assert [len(p) for p in left.places[max(left.places)]] == [COUNT + row for row in range(rows)]
    # without the rules the answer is another one
    other = generated(case.model, inputs)
    assert (other.logits[0] - found.logits[0]).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_eager_attention_too(deep: Any, family: str, method: str) -> None:
    case = deep(family, "eager")
    agree(case, case.inputs([0], [3]), [rule(method), rule(method, 8)])


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "idefics3", "qwen2_vl"])
def test_rows_of_several_images_one_and_none(deep: Any, family: str) -> None:
    """A row's images are one pool; newline tokens go with the first visual token of their row."""
    case = deep(family)
    inputs = case.inputs([0, 2], [1], [])
    visual = case.backbone.encode(inputs)
    prepared = case.backbone.prepare(
        inputs, visual, [torch.arange(len(image.tokens)) for image in visual]
    )
    newlines = prepared.newlines
    assert (newlines is not None and bool(newlines.any())) == ("llava_" in family)
    given = {**prepared.kwargs}
    totals = [sum(len(image.tokens) for image in visual[:2]), len(visual[2].tokens)]
    for method in METHODS:
        rules = [rule(method, 9), rule(method, 4), None]
        _, left = agree(case, given, rules, newlines=newlines)
        assert left.entering == [*totals, 0]
        assert [left.by_layer(row)[-1] for row in range(3)] == [9, 4, 0]
    # as many as there are: not a token goes, newlines neither
    whole = [rule("fastv", totals[0]), rule("fastv", 10**6), None]
    with LayerPruner(case.backbone) as pruner, pruner.prefill(whole, "keep", newlines):
        found = generated(case.model, given)
    other = generated(case.model, given)
    for one, two in zip(found.logits, other.logits, strict=True):
        assert torch.equal(one, two)


def test_the_difference_is_rounding(deep: Any) -> None:
    for family in ("llava", "qwen2_5_vl"):
        case = deep(family, depth=5)
        case.model.double()
        agree(case, case.inputs([0], [3]), [rule("pyramiddrop")] * 2, tolerance=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_one_pass_padded_on_either_side(deep: Any, family: str, side: str) -> None:
    """Logits keep their shape, and what is kept does not follow the padding."""
    case = deep(family)
    inputs, short = case.inputs([0], [3], side=side), case.inputs([0])
    counted = family in ("llava", "internvl", "gemma3")  # else the model counts padding
    if counted:
        inputs, short = case.positioned(inputs), case.positioned(short)
    with torch.no_grad(), LayerPruner(case.backbone) as pruner:
        with noted(rule("dart")) as visits, pruner.prefill([rule("dart")] * 2, "keep") as left:
            found = case.model(**inputs).logits
        with pruner.prefill([rule("dart")], "keep") as alone:
            case.model(**short)
    dropped = dropped_of(case, inputs, left, visits)
    with torch.no_grad(), MaskingOracle(case.model, dropped, "keep"):
        expected = case.model(**inputs).logits
    assert found.shape == expected.shape
    assert len(short["input_ids"][0]) < inputs["input_ids"].shape[1]
    for row, stay in enumerate(dropped.stay[2]):
        assert (found[row, stay] - expected[row, stay]).abs().max() <= 1e-5
    if counted:
        one, two = left.last(0), alone.last(0)
        assert one.tolist() == two.tolist()


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_beams_sampling_and_several_answers(deep: Any, family: str) -> None:
    case = deep(family)
    inputs = case.inputs([0], [3])
    for options in (
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True},
        {"do_sample": True, "num_return_sequences": 2},
    ):
        _, left = agree(case, inputs, [rule(), rule(count=8)], **options)
        assert [len(places) for places in left.places[2]] == [5, 8]


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_a_second_turn_a_crop_and_several_answers_of_one_cache(deep: Any, positions: Any) -> None:
    case = deep("llava")
    inputs = case.inputs([0], [3])
    turn, answer = torch.randint(10, 300, (2, 2, 4), generator=torch.Generator().manual_seed(0))
    long = inputs["input_ids"].shape[1]
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 5, dtype=torch.long)], dim=1)
    places = (mask.cumsum(dim=1) - 1).clamp_min(0)
    rules, model = [rule("pyramiddrop")] * 2, case.model

    def talk(repeat: int) -> Tensor:
        cache = model(**inputs, position_ids=places[:, :long], use_cache=True).past_key_values
        at = {"attention_mask": mask[:, : long + 4], "position_ids": places[:, long : long + 4]}
        model(input_ids=turn, past_key_values=cache, **at)
        cache.crop(-3)
        cache.batch_repeat_interleave(repeat)
        at = {"attention_mask": mask, "position_ids": places[:, long + 1 :], "input_ids": answer}
        at = {name: value.repeat_interleave(repeat, 0) for name, value in at.items()}
        logits: Tensor = model(past_key_values=cache, **at).logits
        return logits

    with torch.no_grad(), LayerPruner(case.backbone) as pruner:
        with noted(rules[0]) as visits, pruner.prefill(rules, positions) as left:
            once = talk(1)
        with pruner.prefill(rules, positions):
            thrice = talk(3)
        dropped = dropped_of(case, inputs, left, visits)
    with torch.no_grad(), MaskingOracle(model, dropped, positions):
        expected = talk(1)
    assert (once - expected).abs().max() <= 1e-5
    assert (thrice - expected.repeat_interleave(3, 0)).abs().max() <= 1e-5


def test_bytes_and_operations_shrink(deep: Any) -> None:
    case = deep("llava", depth=8)
    inputs = case.inputs([0])
    tokens, width = inputs["input_ids"].shape[1], 2 * 2 * 8 * 4  # k and v, 2 heads of 8, float32

    def run() -> tuple[int, int]:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            cache = case.model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
        tensors = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        counts = counter.get_flop_counts()["LlavaForConditionalGeneration.model.language_model"]
        return sum(t.untyped_storage().nbytes() for t in tensors), sum(counts.values())

    whole, work = run()
    nine = rule(count=9)  # layer 11 of 32 is layer 3 of 8
    with LayerPruner(case.backbone) as pruner, pruner.prefill([nine], "keep") as left:
        less, saved = run()
    assert whole == 8 * tokens * width
    assert less == (3 * tokens + 5 * (tokens - 27)) * width
    assert left.by_layer(0) == [36] * 3 + [9] * 5
    assert left.cost(0) == (36 * 3 + 9 * 5) / 8
    assert saved / work < less / whole + 0.02  # the scores cost a projection of the keys
