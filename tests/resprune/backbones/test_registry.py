"""Choosing the backbone from the loaded model."""

from __future__ import annotations

from typing import Any

import pytest

from resprune import backbones
from resprune.errors import ResPruneError, UnsupportedModelError


def test_the_family_is_chosen_from_the_model(tiny_llava: tuple[Any, Any]) -> None:
    backbone = backbones.for_model(*tiny_llava)
    assert backbone.family == "llava"
    assert backbone.family in backbones.names()
    assert backbones.get("llava") is type(backbone)
    assert (backbone.width, backbone.visual_tokens) == (32, 16)
    assert backbone.seed_signals == ("cls_attention",)


def test_near_names_are_suggested() -> None:
    with pytest.raises(UnsupportedModelError, match="Did you mean 'llava'"):
        backbones.get("lava")


def test_unsupported_models_hear_what_is_supported(tiny_llava: tuple[Any, Any]) -> None:
    model, processor = tiny_llava
    for other in (model.model.language_model, object(), "llava-hf/llava-1.5-7b-hf"):
        with pytest.raises(UnsupportedModelError) as caught:
            backbones.for_model(other, processor)
        assert "llava (model_type llava)" in str(caught.value)
        assert "resprune.backbones.Backbone" in str(caught.value)


def test_a_model_without_a_head_is_refused(tiny_llava: tuple[Any, Any]) -> None:
    model, processor = tiny_llava
    with pytest.raises(UnsupportedModelError, match="ForConditionalGeneration"):
        backbones.for_model(model.model, processor)


def test_a_tokenizer_is_no_processor(tiny_llava: tuple[Any, Any]) -> None:
    model, processor = tiny_llava
    with pytest.raises(UnsupportedModelError, match="pass the model's processor"):
        backbones.for_model(model, processor.tokenizer)


def test_a_slow_tokenizer_is_refused(
    tiny_llava: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = tiny_llava
    monkeypatch.setattr(type(processor.tokenizer), "is_fast", False)
    with pytest.raises(UnsupportedModelError, match="no character offsets"):
        backbones.for_model(model, processor).noun_embeddings("a dog", [(2, 5)])


def test_no_chat_template(tiny_llava: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_llava
    monkeypatch.setattr(processor, "chat_template", None)
    with pytest.raises(ResPruneError, match="no chat template"):
        backbones.for_model(model, processor).chat_prompt("a dog")


def test_a_family_name_is_taken_once() -> None:
    with pytest.raises(ResPruneError, match="'llava' is taken by LlavaBackbone"):

        @backbones.register
        class Other(backbones.get("llava")):  # type: ignore[misc]
            family = "llava"


def test_a_peft_wrapper_is_looked_through(tiny_llava: tuple[Any, Any]) -> None:
    model, processor = tiny_llava

    class Wrapper:
        def get_base_model(self) -> Any:
            return model

    assert backbones.for_model(Wrapper(), processor).model is model


def test_facts_of_every_family() -> None:
    """What the table of backbones says; the conformance suite holds it against loaded models."""
    import transformers

    for family in backbones.names():
        facts = backbones.get(family).facts()
        assert facts["family"] == family
        assert facts["transformers_classes"]
        assert all(hasattr(transformers, name) for name in facts["transformers_classes"])
        assert facts["seed_strategies"][-3:] == ["l2_norm", "relevance", "none"]
        assert facts["positions"] == ("M-RoPE (t, h, w)" if "qwen" in family else "1-D")
        assert facts["refused"]
