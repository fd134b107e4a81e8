"""Loading processors where torchvision is missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from resprune.errors import UnsupportedModelError
from resprune.processors import images_only, load_processor
from resprune.testing.tiny import tiny_llava_processor, tiny_qwen_processor
from resprune.testing.tiny.qwen import FAMILIES

without_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed"
)


@without_torchvision
@pytest.mark.parametrize("family", FAMILIES)
def test_qwen_loads_for_images_only_and_says_so(family: str, tmp_path: Path) -> None:
    processor = tiny_qwen_processor(family)
    processor.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="is loaded for images only: .*Install torchvision"):
        loaded = load_processor(str(tmp_path))
    assert type(loaded).__name__ == type(processor).__name__
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n"
    inputs = [
        one(text=[text], images=[Image.new("RGB", (30, 50))], return_tensors="pt")
        for one in (processor, loaded)
    ]
    assert inputs[0].keys() == inputs[1].keys() >= {"image_grid_thw", "mm_token_type_ids"}
    assert all((inputs[0][name] == inputs[1][name]).all() for name in inputs[0])
    # transformers' own class is named in what was saved, for machines that have torchvision
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["processor_class"] == type(processor).__bases__[0].__name__


@without_torchvision
def test_the_class_may_come_from_the_models_config(tmp_path: Path) -> None:
    """As on the hub: an image processor, a tokenizer and a model config, no processor config."""
    processor = tiny_qwen_processor("qwen2_5_vl")
    processor.tokenizer.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    with pytest.warns(UserWarning, match="Qwen2_5_VLProcessor of .* is loaded for images only"):
        loaded = load_processor(str(tmp_path))
    assert loaded.image_processor.patch_size == 4
    assert loaded.image_token_id == processor.image_token_id


def test_others_load_as_they_are(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    processor = tiny_llava_processor()
    processor.save_pretrained(tmp_path)
    assert type(load_processor(str(tmp_path))) is type(processor)
    assert not [entry for entry in recwarn if "images only" in str(entry.message)]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError)):
        load_processor(str(tmp_path / "nowhere"))


def test_another_class_has_no_images_only_form() -> None:
    with pytest.raises(UnsupportedModelError, match="LlavaProcessor has no form for images only"):
        images_only("LlavaProcessor")
