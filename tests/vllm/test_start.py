"""What is refused at start, and what is left alone."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from resprune import PruningConfig
from resprune.errors import ConfigError
from resprune.serving.vllm import guard
from resprune.testing.tiny import tiny_llava_processor
from resprune.testing.tiny.parts import enlarge_weights
from studies.nano import model_dir
from tests.vllm.harness import Oracle, Served, pairs, serve

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
    from vllm.model_executor.models.llava import LlavaForConditionalGeneration

    from resprune.serving.vllm import served

    monkeypatch.setitem(sys.modules, "resprune.serving.vllm.llava", None)
    with (
        pytest.raises(Exception, match="not as this resprune knows it"),
        serve(model_dir("nano-llava"), config()),
    ):
        pass
    assert served.LlavaForConditionalGeneration is LlavaForConditionalGeneration


def test_a_method_that_vllm_has_no_more_is_an_error_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.model_executor.models.llava import LlavaMultiModalProcessor
    from vllm.multimodal.processing import BaseMultiModalProcessor

    name = "_postprocess_hf_mm_data"
    monkeypatch.delattr(BaseMultiModalProcessor, name)
    assert not hasattr(LlavaMultiModalProcessor, name)
    monkeypatch.delitem(sys.modules, "resprune.serving.vllm.llava")
    content = config().to_dict()
    hf_config = AutoConfig.from_pretrained(model_dir("nano-llava"))
    hf_config.resprune = content
    with pytest.raises(ConfigError, match=f"LlavaMultiModalProcessor has no {name}"):
        guard.check_start(hf_config, "LlavaForConditionalGeneration")


@pytest.fixture(scope="module")
def qwen(folders: dict[str, Path]) -> Iterator[tuple[Served, Oracle]]:
    with serve(folders["nano-qwen2.5-vl"], config(positions="keep")) as served:
        yield served, Oracle(folders["nano-qwen2.5-vl"])


def test_what_has_no_place_among_m_rope_positions_is_refused(
    qwen: tuple[Served, Oracle],
) -> None:
    served, oracle = qwen
    asked = pairs("nano-qwen2.5-vl", 1)
    ends = oracle.served(asked[0])
    ends["prompt"] = "<|vision_start|><|image_pad|>"
    with pytest.raises(ValueError, match="ends with an image"):
        served.ask([ends])
    video = np.zeros((4, 56, 56, 3), dtype=np.uint8)
    metadata = {"fps": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3], "duration": 2.0}
    prompt = "<|vision_start|><|video_pad|><|vision_end|>what is it?"
    with pytest.raises(Exception, match="At most 0 video"):
        served.ask([{"prompt": prompt, "multi_modal_data": {"video": (video, metadata)}}])
    ids, lengths = served.ask([oracle.served(each) for each in asked])
    expected = oracle.answers(asked, config(positions="keep"))
    assert (ids, lengths) == (expected.ids, expected.lengths)


def test_attention_of_a_compiled_tower_is_refused_at_start(folders: dict[str, Path]) -> None:
    reads = config(seed_strategy="received_attention", positions="keep")
    compiled = {"compilation_config": {"compile_mm_encoder": True}}
    with (
        pytest.raises(Exception, match="compile_mm_encoder"),
        serve(folders["nano-qwen2.5-vl"], reads, **compiled),
    ):
        pass


def test_a_tower_without_a_cls_token(tmp_path: Path) -> None:
    """A random LLaVA-1.5 with a SigLIP tower: what its patches receive seeds the expansion."""
    processor = tiny_llava_processor(image_size=56, patch_size=7, tower="siglip")
    small = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=SiglipVisionConfig(
                **small, num_hidden_layers=3, image_size=56, patch_size=7, vision_use_head=False
            ),
            text_config=LlamaConfig(
                **small,
                num_hidden_layers=2,
                num_key_value_heads=2,
                vocab_size=len(processor.tokenizer),
                max_position_embeddings=512,
            ),
            image_token_index=processor.image_token_id,
            vision_feature_select_strategy="full",
        )
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.init_weights()
        enlarge_weights(model)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    own = config(12, seed_strategy="received_attention")
    asked, oracle = pairs("nano-llava"), Oracle(tmp_path)
    expected = oracle.answers(asked, own)
    with serve(tmp_path, own, block_size=32) as served:
        ids, lengths = served.ask([oracle.served(each) for each in asked])
        assert served.seen() == expected.kept
        assert (ids, lengths) == (expected.ids, expected.lengths)
    seeds = config(12)
    assert oracle.answers(asked, seeds).kept != expected.kept  # the signal matters


def test_this_version_is_one_of_those_tested() -> None:
    assert guard.version() in guard.TESTED
