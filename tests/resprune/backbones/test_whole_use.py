"""What people put around a model, and ask of ``generate``, for one family of each kind.

1-D positions (LLaVA-1.5), M-RoPE (Qwen2.5-VL), tiles (LLaVA-NeXT). What is expected is the same
pruned model without what is around it, which the conformance suite compares with an oracle.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import resprune
from resprune.backbones import for_model
from resprune.testing.backbones import Case
from resprune.testing.calls import greedy, new_tokens
from resprune.testing.checks import assert_close, footprint
from resprune.testing.mrope import MropeCase
from resprune.testing.newlines import NewlineCase
from resprune.testing.tiny import tiny_qwen, tiny_tiled

KINDS = ("llava", "qwen2_5_vl", "llava_next")


@pytest.fixture(scope="module", params=KINDS)
def case(
    request: pytest.FixtureRequest, tiny_llava: tuple[Any, Any], images: list[Image.Image]
) -> Case:
    if request.param == "llava":
        return Case(*tiny_llava, images)
    if request.param == "qwen2_5_vl":
        return MropeCase(*tiny_qwen("qwen2_5_vl"), images)
    return NewlineCase(*tiny_tiled("llava_next"), images)


@pytest.fixture
def model(case: Case) -> Any:
    """A model of its own for each test, which may be changed."""
    return copy.deepcopy(case.model)


def logits(model: Any, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs).logits
    return found


def pruned(case: Case, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Tokens and logits of a model while it is attached."""
    with resprune.attach(model, case.processor, case.config()) as attachment:
        tokens, found = greedy(model, inputs), logits(model, inputs)
        assert attachment.last is not None
        assert attachment.last.pruned
    return tokens, found


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(found[0], expected[0])
    assert_close(found[1], expected[1], 1e-5)


# -- torch.compile -------------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def briefly(case: Case, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Two tokens and the prompt's logits while attached: tracing is slow."""
    with resprune.attach(model, case.processor, case.config()) as attachment:
        tokens = model.generate(**inputs, max_new_tokens=2, do_sample=False)
        found = logits(model, inputs)
        assert attachment.last is not None
        assert attachment.last.pruned
    return tokens, found


def test_a_compiled_forward(case: Case, model: Any, fresh_compiler: None) -> None:
    inputs = case.one(0, [0])
    expected = briefly(case, model, inputs)
    model.forward = torch.compile(model.forward, backend="eager")
    assert_same(briefly(case, model, inputs), expected)


def test_a_compiled_model(tiny_llava: tuple[Any, Any], images: Any, fresh_compiler: None) -> None:
    """``model.compile`` compiles the hooks too; choosing tokens is left out of that."""
    case = Case(copy.deepcopy(tiny_llava[0]), tiny_llava[1], images)
    inputs = case.one(0, [0])
    expected = briefly(case, case.model, inputs)
    case.model.compile(backend="eager")
    traced: list[bool] = []
    original = case.backbone.__class__.encode

    def encode(*args: Any, **kwargs: Any) -> Any:
        traced.append(torch.compiler.is_compiling())
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(case.backbone.__class__, "encode", encode)
        assert_same(briefly(case, case.model, inputs), expected)
    assert traced
    assert not any(traced)


def test_what_compile_returns(
    tiny_llava: tuple[Any, Any], images: Any, fresh_compiler: None
) -> None:
    """A compiled copy stands for its model: attaching to either prunes both."""
    case = Case(copy.deepcopy(tiny_llava[0]), tiny_llava[1], images)
    inputs = case.one(0, [0])
    expected = briefly(case, case.model, inputs)
    compiled: Any = torch.compile(case.model, backend="eager")
    assert for_model(compiled, case.processor).model is case.model
    assert_same(briefly(case, compiled, inputs), expected)
    with resprune.attach(compiled, case.processor, case.config()):
        assert torch.equal(logits(case.model, inputs), expected[1])


# -- PEFT ----------------------------------------------------------------------------------------


def lora(model: Any, **options: Any) -> Any:
    """LoRA with weights that change the answer."""
    peft = pytest.importorskip("peft")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = peft.LoraConfig(
            target_modules=r".*language_model.*\.(q_proj|v_proj)",
            r=4,
            lora_alpha=16,
            init_lora_weights=False,
            **options,
        )
        return peft.get_peft_model(model, config).eval()


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_lora_around_the_model(case: Case, model: Any, task: str | None) -> None:
    inputs = case.inputs([0], [1, 2], [])
    plain = pruned(case, model, inputs)
    wrapped = lora(model, task_type=task)
    greedy(wrapped, inputs)  # peft puts attributes of its own on a first use
    before = footprint(wrapped.base_model)
    found = pruned(case, wrapped, inputs)
    assert footprint(wrapped.base_model) == before
    assert not torch.allclose(found[1], plain[1])
    merged = copy.deepcopy(wrapped).merge_and_unload()
    expected = pruned(case, merged, inputs)
    assert torch.equal(found[0], expected[0])
    assert_close(found[1], expected[1], 1e-4)  # merging rounds


def test_lora_of_older_releases(case: Case, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They call the model's ``forward`` past its hooks."""
    inputs = case.one(0, [0])
    wrapped = lora(model)
    expected = pruned(case, wrapped, inputs)
    outer = type(wrapped.base_model)
    monkeypatch.setattr(
        outer, "forward", lambda self, *args, **kwargs: self.model.forward(*args, **kwargs)
    )
    assert_same(pruned(case, wrapped, inputs), expected)
    with (
        resprune.attach(wrapped, case.processor, case.config()),
        pytest.raises(resprune.ResPruneError, match="copy of an attached model"),
    ):
        copy.deepcopy(wrapped)(**inputs)


def test_lora_is_trained_through_a_pruned_prompt(case: Case, model: Any) -> None:
    inputs = case.one(0, [0])
    wrapped = lora(model)
    with resprune.attach(wrapped, case.processor, case.config()):
        wrapped(**inputs, labels=inputs["input_ids"]).loss.backward()
    trained = {name: p.grad for name, p in wrapped.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in trained.values())
    assert any(float(grad.abs().sum()) > 0 for grad in trained.values())


# -- accelerate ----------------------------------------------------------------------------------


def test_hooks_of_accelerate(case: Case, model: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    inputs = case.inputs([0], [1, 2])
    expected = pruned(case, model, inputs)
    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    hooked = model.forward
    assert_same(pruned(case, model, inputs), expected)
    assert model.forward is hooked  # what accelerate put there is still there


def test_a_hook_on_the_model_itself(case: Case, model: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    seen: list[int] = []

    class Watch(accelerate.hooks.ModelHook):  # type: ignore[misc, name-defined]
        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(kwargs["input_ids"].shape[1])
            return args, kwargs

    inputs = case.one(0, [0])
    expected = pruned(case, model, inputs)
    accelerate.hooks.add_hook_to_module(model, Watch())
    assert_same(pruned(case, model, inputs), expected)
    assert max(seen) == expected[1].shape[1]  # it saw shortened prompts alone
    accelerate.hooks.remove_hook_from_module(model)


@pytest.mark.parametrize("to", ["memory", "disk"])
def test_offloaded_weights(case: Case, model: Any, to: str, tmp_path: Path) -> None:
    """Weights that are there only while their module runs."""
    accelerate = pytest.importorskip("accelerate")
    if case.backbone.family == "llava_next":
        pytest.skip("its newline is a weight that the model itself reads outside its modules' runs")
    inputs = case.inputs([0], [1, 2])
    expected = pruned(case, model, inputs)
    if to == "memory":
        accelerate.cpu_offload(model, torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path), torch.device("cpu"))
    assert model.get_input_embeddings().weight.device.type == "meta"
    assert_same(pruned(case, model, inputs), expected)
    ranks, norms = for_model(model, case.processor).noun_rarity("the dog", [(4, 7)])
    assert (ranks, norms) == case.backbone.noun_rarity("the dog", [(4, 7)])


# -- generate's options --------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_several_samples_of_a_prompt(case: Case, positions: str) -> None:
    """They are those of as many equal rows."""
    text = case.backbone.chat_prompt("What color is the dog?", 1)
    one = case.process([text], [[case.images[0]]], "left")
    three = case.process([text] * 3, [[case.images[0]]] * 3, "left")
    options = {"max_new_tokens": 4, "do_sample": True, "temperature": 2.0}
    with resprune.attach(case.model, case.processor, case.config(positions=positions)):
        torch.manual_seed(11)
        found = case.model.generate(**one, **options, num_return_sequences=3)
        torch.manual_seed(11)
        expected = case.model.generate(**three, **options)
    assert torch.equal(found, expected)
    assert len({tuple(row) for row in new_tokens(found, one)}) > 1


def test_a_streamer_gets_every_token(case: Case) -> None:
    from transformers.generation.streamers import BaseStreamer

    class Collect(BaseStreamer):
        def __init__(self) -> None:
            self.parts: list[list[int]] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            self.parts.append(value.flatten().tolist())

        def end(self) -> None:
            self.ended = True

    inputs = case.one(0, [0])
    streamer = Collect()
    with resprune.attach(case.model, case.processor, case.config()):
        found = greedy(case.model, inputs, streamer=streamer)
    prompt, *tokens = streamer.parts
    assert [token for part in tokens for token in part] == new_tokens(found, inputs)[0]
    assert len(prompt) < inputs["input_ids"].shape[1]  # the prompt it is shown is the shortened one
    assert streamer.ended


@pytest.mark.parametrize("agrees", [True, False])
def test_an_assistant_changes_no_token(case: Case, model: Any, agrees: bool) -> None:
    """A draft model of the family, which sees the same kept tokens."""
    if not agrees:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.get_output_embeddings().weight.add_(
                torch.randn_like(model.get_output_embeddings().weight)
            )
    inputs = case.one(0, [0])
    with resprune.attach(case.model, case.processor, case.config()):
        expected = greedy(case.model, inputs)
        assert torch.equal(greedy(case.model, inputs, assistant_model=model), expected)


def test_a_static_cache_of_a_batch(case: Case) -> None:
    inputs = case.inputs([0], [1, 2], [])
    with resprune.attach(case.model, case.processor, case.config()):
        expected = greedy(case.model, inputs)
        assert torch.equal(greedy(case.model, inputs, cache_implementation="static"), expected)


def test_a_generation_config_is_not_mixed_with_options(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    """What pruning must set goes into a copy of it: transformers will refuse both at once."""
    from transformers import GenerationConfig
    from transformers.utils import logging

    inputs = case.one(0, [0])
    prompt = inputs["input_ids"].shape[1]
    config = GenerationConfig(
        max_length=prompt + 4, do_sample=False, use_cache=False, pad_token_id=0
    )
    logger = logging.get_logger("transformers.generation.utils")
    with resprune.attach(case.model, case.processor, case.config()):
        expected = greedy(case.model, inputs)
        logger.addHandler(caplog.handler)
        try:
            found = case.model.generate(**inputs, generation_config=config)
        finally:
            logger.removeHandler(caplog.handler)
    assert torch.equal(found, expected)
    assert "generation-related arguments" not in caplog.text
    assert (config.max_length, config.use_cache) == (prompt + 4, False)


# -- where things are ----------------------------------------------------------------------------


def test_nothing_is_left_of_it_all(case: Case, model: Any) -> None:
    """Wrapped, compiled and hooked at once, and then as before."""
    accelerate = pytest.importorskip("accelerate")
    inputs = case.one(0, [0])
    wrapped = lora(model)
    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    expected = greedy(wrapped, inputs)
    before = footprint(wrapped)
    with (
        pytest.raises(resprune.ResPruneError, match="query of row"),
        resprune.attach(wrapped, case.processor, case.config()),
    ):
        greedy(wrapped, inputs, query=" ")
    assert footprint(wrapped) == before
    assert torch.equal(greedy(wrapped, inputs), expected)
