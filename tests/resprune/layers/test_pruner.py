"""What a view shows, what is refused, and that nothing is left behind."""

from __future__ import annotations

import copy
import threading
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask

from resprune.errors import ConfigError, ResPruneError, UnsupportedModelError
from resprune.layers import LayerPruner, check_generate, check_inside, masks
from resprune.methods.layers.fastv import FastV
from resprune.plan import Rule
from resprune.setting import Setting
from resprune.testing.inside import generated

FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma3")


def rule(count: int = 5, method: str = "fastv", **options: Any) -> Rule:
    options = options or {"fastv": {"layer": 11}}.get(method, {})
    later = Setting.of(method, count, **options).inside
    assert later is not None
    return Rule(method, later.options, count)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_view_shows_the_models_own_attention_and_keys(
    deep: Any, family: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, views = deep(family), []
    inputs = case.inputs([0], [3], side=side)
    monkeypatch.setattr(FastV, "reads", lambda *_: frozenset(range(5)))
    visit = FastV.visit

    def noting(self: Any, view: Any, memory: Any, options: Any) -> Any:
        views.append(view)
        return visit(self, view, memory, options)

    monkeypatch.setattr(FastV, "visit", noting)
    with torch.no_grad():
        with LayerPruner(case.backbone) as pruner, pruner.prefill([rule(layer=27)] * 2, "keep"):
            keys = case.model(**inputs, use_cache=True).past_key_values.layers
        eager = deep(family, "eager").model(**inputs, output_attentions=True).attentions
    mask = inputs["attention_mask"].bool()
    assert [view.index for view in views] == [0, 1, 2, 3, 4, 5]
    for view in views[:5]:
        for b, present in enumerate(mask):
            n = int(present.sum())
            slots = torch.tensor([len(present) - 4, len(present) - 1])
            weights = view.attention(b, slots)[..., -n:]
            columns = present.nonzero()[:, 0]
            own = eager[view.index][b][:, columns[slots - len(present) + n]][..., columns]
            assert (weights - own).abs().max() <= 1e-6
            cached = keys[view.index].keys[b][:, columns]
            assert (view.keys()[b][:, -n:] - cached).abs().max() <= 1e-6
            image = inputs["input_ids"][b, columns] == case.backbone.image_token_id
            assert (view.visual[b] - len(present) + n).tolist() == image.nonzero()[:, 0].tolist()
            behind = range(int(view.visual[b][-1]) + 1, len(present))
            assert view.text[b].tolist() == list(behind)


def flash(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **given: Any
) -> Any:
    """What flash attention does with a 2-D mask, with gaps in positions, and causality."""
    new, total, places = query.shape[2], key.shape[2], given.get("position_ids")
    seen = torch.arange(total) <= torch.arange(total - new, total)[:, None]
    if attention_mask is None and places is not None and len(query) == 1 and new > 1:
        run = places[0] - torch.arange(new)  # a gap begins a new sequence
        seen = seen & (run[:, None] == run[None])
    seen = seen.expand(len(query), 1, -1, -1)
    if attention_mask is not None:
        assert attention_mask.shape == (len(query), total)
        seen = seen & attention_mask.bool()[:, None, None]
    return sdpa_attention_forward(module, query, key, value, seen, scaling=given["scaling"])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_masks_of_flash_attention(deep: Any, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is here: its masks, its packing test and bottom-right causality are played."""
    AttentionInterface.register("played_varlen", flash)  # "flash" in the name would load kernels
    AttentionMaskInterface.register("played_varlen", flash_attention_mask)
    monkeypatch.setattr(
        masks,
        "is_flash_attention_requested",
        lambda config: config._attn_implementation == "played_varlen",
    )
    for rows in ([[0]], [[0], [3]], [[0], []]):
        rules = [rule(method="pyramiddrop") if used else None for used in rows]
        found = []
        for attention in ("sdpa", "played_varlen"):
            case = deep(family, attention)
            with LayerPruner(case.backbone) as pruner, pruner.prefill(rules, "keep"):
                found.append(generated(case.model, case.inputs(*rows)))
        assert torch.equal(found[0].sequences, found[1].sequences)
        for one, other in zip(found[0].logits, found[1].logits, strict=True):
            assert (one - other).abs().max() <= 1e-5


def test_threads_do_not_disturb_each_other(deep: Any) -> None:
    case = deep("llava")
    inputs = [case.inputs([i]) for i in range(4)]
    rules = [rule(3), rule(9), None, rule(20)]
    found: list[Any] = [None] * 4

    with LayerPruner(case.backbone) as pruner:

        def one(i: int) -> Any:
            if rules[i] is None:
                return generated(case.model, inputs[i]).logits
            with pruner.prefill([rules[i]], "keep"):
                return generated(case.model, inputs[i]).logits

        def work(i: int) -> None:
            for _ in range(5):
                found[i] = one(i)

        alone = [one(i) for i in range(4)]
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for one_by_one, together in zip(alone, found, strict=True):
        for a, b in zip(one_by_one, together, strict=True):
            assert (a - b).abs().max() <= 1e-5


def test_nothing_is_left_on_the_model_and_the_untold_runs_as_before(deep: Any) -> None:
    case = deep("llava")
    inputs, words, modules = case.inputs([0]), case.inputs([]), list(case.model.modules())
    before = [[*vars(m), *m._forward_pre_hooks, *m._forward_hooks] for m in modules]
    with torch.no_grad():
        expected, plain = case.model(**inputs).logits, case.model(**words).logits
        with suppress(KeyError), LayerPruner(case.backbone) as pruner:
            assert torch.equal(case.model(**inputs).logits, expected)  # nothing was said
            with pruner.prefill([rule()], "keep") as left:
                assert torch.equal(case.model(**words).logits, plain)  # no image to prune
                assert left.entering == []
                assert not torch.equal(case.model(**inputs).logits, expected)
                assert torch.equal(case.model(**inputs).logits, expected)  # one prompt alone
            assert left.entering == [36]
            with pruner.prefill([rule()], "keep"):
                pass
            assert torch.equal(case.model(**inputs).logits, expected)  # left unused, forgotten
            raise KeyError
        assert torch.equal(case.model(**inputs).logits, expected)
    assert before == [[*vars(m), *m._forward_pre_hooks, *m._forward_hooks] for m in modules]


def test_what_cannot_be_done_is_refused(deep: Any) -> None:
    case, narrow = deep("llava"), deep("gemma3", window=24)
    inputs, model = case.inputs([0]), case.model

    def run(message: str, rules: list[Rule | None] | None = None, **options: Any) -> None:
        with pytest.raises(ResPruneError, match=message), pruner.prefill(rules or [rule()], "keep"):
            generated(model, inputs, **options)

    with LayerPruner(case.backbone) as pruner:
        run("static cache", cache_implementation="static")
        run("filled cache", prefill_chunk_size=16)
        run("2 rules for a batch of 1", [rule(), rule()])
        for other in (rule(layer=16), rule(method="dart")):
            run("one method inside the LLM", [rule(), other], num_beams=2)
        with pruner.prefill([rule()], "keep"):
            cache = generated(model, inputs).past_key_values
        turn = {"input_ids": inputs["input_ids"][:, -2:]}
        with pytest.raises(ResPruneError, match="a copy of a pruned cache"):
            model(**turn, past_key_values=copy.deepcopy(cache))
        cache.batch_repeat_interleave(3)
        three = {"input_ids": turn["input_ids"].repeat(3, 1)}
        model(**three, past_key_values=cache)
        cache.batch_select_indices(torch.tensor([0, 1]))
        model.train()
        try:
            run("model.eval")
        finally:
            model.eval()
        embedded = model.get_input_embeddings()(inputs["input_ids"]).detach()
        with pytest.raises(ResPruneError, match="input_ids"), pruner.prefill([rule()], "keep"):
            model(inputs_embeds=embedded, pixel_values=inputs["pixel_values"])
    with (
        LayerPruner(narrow.backbone) as pruner,
        pruner.prefill([rule()], "keep"),
        pytest.raises(ResPruneError, match="sliding window of 24 of decoder layer"),
    ):
        generated(narrow.model, narrow.inputs([0]))


def test_generate_options_are_refused_by_name(deep: Any) -> None:
    config = deep("llava").model.generation_config
    check_generate(config, {"use_cache": True, "cache_implementation": "dynamic"})
    for name, value in (
        ("use_cache", False),
        ("prefill_chunk_size", 4),
        ("prompt_lookup_num_tokens", 3),
        ("cache_implementation", "quantized"),
        ("assistant_model", object()),
    ):
        with pytest.raises(ResPruneError, match=name):
            check_generate(config, {name: value})
        changed = copy.deepcopy(config)
        setattr(changed, name, value)
        with pytest.raises(ResPruneError, match=name):
            check_generate(changed, {})


def test_settings_are_refused_by_name(deep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in FAMILIES:
        case = deep(family)
        check_inside(Setting.of("resprune", 5, positions="compact"), case.backbone)
        if family in ("llava", "internvl"):
            check_inside(Setting.of("pyramiddrop", 4, positions="compact"), case.backbone)
            continue
        with pytest.raises(ConfigError, match=f"inside the LLM of {family} positions cannot be"):
            check_inside(Setting.of("pyramiddrop", 4, positions="compact"), case.backbone)
    check_inside(Setting.of("fastv", 5), deep("llava").backbone)
    three = deep("llava", depth=3).backbone
    with pytest.raises(ConfigError, match=r"pyramiddrop.*do not fit a decoder of 3 layers"):
        check_inside(Setting.of("pyramiddrop", 4), three)
    backbone = deep("llava").backbone
    monkeypatch.setattr(backbone.model, "hf_device_map", {"a": 0, "b": 1}, raising=False)
    with pytest.raises(UnsupportedModelError, match="several devices"):
        check_inside(Setting.of("fastv", 5), backbone)
    monkeypatch.setattr(backbone.model, "hf_device_map", {"a": 0, "b": 0})
    check_inside(Setting.of("fastv", 5), backbone)


def test_a_decoder_of_another_build_is_refused(deep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = deep("llava")
    monkeypatch.delattr(case.model.get_decoder().layers[0].self_attn, "q_proj")
    with pytest.raises(UnsupportedModelError, match=r"self_attn\.q_proj"):
        LayerPruner(case.backbone)


def test_a_method_that_miscounts_is_named(deep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = deep("llava")
    visit = FastV.visit

    def one_more(self: Any, view: Any, memory: Any, options: Any) -> Any:
        drop = visit(self, view, memory, options)
        if drop is not None:
            drop.kept[0] = view.visual[0][:6]
        return drop

    monkeypatch.setattr(FastV, "visit", one_more)
    with (
        LayerPruner(case.backbone) as pruner,
        pruner.prefill([rule()], "keep"),
        pytest.raises(ResPruneError, match=r"'fastv' left \[6\] visual tokens before layer 2"),
    ):
        generated(case.model, case.inputs([0]))
