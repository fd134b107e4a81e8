"""What is refused at start, and what is left alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from resprune import PruningConfig
from resprune.serving.vllm import guard
from studies.nano import model_dir
from tests.vllm.harness import Oracle, pairs, serve

_SETTING = {"alpha": 0.75, "positions": "compact"}


def config(budget: Any = 43, **options: Any) -> PruningConfig:
    return PruningConfig.single(budget, **{**_SETTING, **options})


def hub_names(folder: Path) -> Path:
    """nano-llava with its tower's weights named as on the hub, as vLLM's own class reads them."""
    shutil.copytree(model_dir("nano-llava"), folder)
    weights = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model."): value
        for name, value in weights.items()
    }
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_without_a_config_everything_is_vllms_own(tmp_path: Path) -> None:
    from vllm.model_executor.models.llava import (
        LlavaForConditionalGeneration,
        LlavaMultiModalProcessor,
    )
    from vllm.multimodal import MULTIMODAL_REGISTRY

    folder = hub_names(tmp_path / "nano-llava")
    asked, oracle = pairs("nano-llava"), Oracle(model_dir("nano-llava"))
    with serve(folder) as served:
        assert type(served.model) is LlavaForConditionalGeneration
        processor = MULTIMODAL_REGISTRY.create_processor(served.llm.model_config)
        assert type(processor) is LlavaMultiModalProcessor
        ids, lengths = served.ask([oracle.served(each) for each in asked])
    whole = oracle.answers(asked, None)
    assert (ids, lengths) == (whole.ids, whole.lengths)
    # the same folder with a config, in the same process: vLLM remembers classes by folder
    with serve(folder, config()) as served:
        ids, lengths = served.ask([oracle.served(each) for each in asked])
    pruned = oracle.answers(asked, config())
    assert (ids, lengths) == (pruned.ids, pruned.lengths)
    assert pruned.lengths != whole.lengths


def test_a_folder_is_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export = tmp_path / "export"
    config().save_pretrained(export)
    with serve(model_dir("nano-llava"), str(export)) as served:
        read = served.llm.model_config.hf_config.resprune
        assert read["pruning_config.json"] == json.loads(
            (export / "pruning_config.json").read_text()
        )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nano-llava", {"default": 1}, "table"),
        ("nano-llava", "no/such/folder", "no/such/folder"),
        ("nano-llava", 7, "give the folder"),
        ("nano-llava", config(positions="keep"), "positions 'keep'"),
        ("nano-llava", PruningConfig.single(43, method="fastv"), "tokens before the LLM"),
        ("nano-llava", config(seed_strategy="received_attention"), "received_attention"),
        ("nano-llava", config(backbone={"family": "qwen2_5_vl"}), "qwen2_5_vl"),
        ("nano-qwen2.5-vl", config(positions="keep"), "rotary base 4"),
    ],
)
def test_refused_at_start(name: str, content: Any, message: str) -> None:
    with pytest.raises(Exception, match=message), serve(model_dir(name), content):
        pass


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tiny = Qwen2Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(tiny).save_pretrained(tmp_path)
    with (
        pytest.raises(Exception, match="does not serve Qwen2ForCausalLM"),
        serve(tmp_path, config(), skip_tokenizer_init=True),
    ):
        pass


def test_a_changed_seam_is_an_error_at_start_and_no_matter_without_a_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    from vllm.model_executor.models.llava import LlavaForConditionalGeneration

    from resprune.serving.vllm import served

    monkeypatch.setitem(sys.modules, "resprune.serving.vllm.llava", None)
    with (
        pytest.raises(Exception, match="not as this resprune knows it"),
        serve(model_dir("nano-llava"), config()),
    ):
        pass
    assert served.LlavaForConditionalGeneration is LlavaForConditionalGeneration


def test_this_version_is_one_of_those_tested() -> None:
    assert guard.version() in guard.TESTED
