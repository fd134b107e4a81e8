"""nano-qwen2.5-vl before training: pixels, visual tokens, first look, and a few steps."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from studies.nano.models.qwen2_5_vl import encode
from studies.nano.processor import vocabulary
from studies.nano.qwen_model import REACH, TOWER_HEADS, TOWER_WIDTH, build_qwen
from studies.nano.qwen_processor import build_qwen_processor, qwen_vocabulary
from studies.nano.qwen_vision import QwenVision, cut_patches
from studies.nano.recipe import SMOKE
from studies.nano.scenes import PATCHES, generate_scene
from studies.nano.train import STAGES, train


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return build_qwen(0).eval()


@pytest.fixture(scope="module")
def inputs():
    images = [generate_scene(seed).image for seed in (1, 2)]
    return build_qwen_processor().image_processor(images, return_tensors="pt")


def raw_pixels(seeds):
    from numpy import asarray

    pixels = [torch.from_numpy(asarray(generate_scene(seed).image).copy()) for seed in seeds]
    return (torch.stack(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def test_words_have_the_ids_that_they_have_in_nano_llava():
    theirs, mine = vocabulary(), qwen_vocabulary()
    assert len(set(mine)) == len(mine)
    assert mine[4 : len(theirs)] == theirs[4:]


def test_training_cuts_images_as_the_processor_does(inputs):
    assert inputs["image_grid_thw"].tolist() == [[1, 28, 28]] * 2
    assert torch.allclose(cut_patches(raw_pixels((1, 2))), inputs["pixel_values"], atol=1e-6)


@torch.no_grad()
def test_training_sees_the_visual_tokens_that_the_model_sees(model, inputs):
    wanted = torch.stack(list(model.get_image_features(**inputs).pooler_output))
    vision = QwenVision(model)
    features, summary = vision.encode(raw_pixels((1, 2)))
    assert summary is None
    assert torch.allclose(vision.project(features), wanted, atol=1e-5)
    some = torch.tensor([3, 100, 101])
    assert torch.allclose(vision.project(features[:, some]), wanted[:, some], atol=1e-5)
    tokens, received = encode(model, (1, 2))
    assert torch.allclose(tokens, wanted, atol=1e-5)
    assert received.shape == (2, PATCHES)
    assert torch.allclose(received.sum(1), torch.ones(2), atol=1e-4)


@torch.no_grad()
def test_every_head_looks_at_a_neighbour_of_its_own_first(model):
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    tower, side = model.model.visual, 11
    grid = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    cos, sin = tower.rotary_pos_emb(torch.zeros(1), grid)
    seen = set()
    for block in tower.blocks:
        bias = block.attn.qkv.bias[: 2 * TOWER_WIDTH].reshape(2, 1, TOWER_HEADS, -1)
        query, key = (b.expand(side**2, -1, -1) for b in bias)
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        center = grid.tolist().index([side // 2] * 2)
        at = torch.einsum("hd,nhd->hn", query[center], key).argmax(1)
        offsets = (grid[at] - side // 2).tolist()
        assert len({tuple(o) for o in offsets}) == TOWER_HEADS
        assert all(max(abs(a), abs(b)) == REACH for a, b in offsets)
        seen.update(map(tuple, offsets))
    assert len(seen) == 8


def test_a_few_steps_train_every_stage_and_leave_a_model_that_loads(tmp_path):
    from transformers import AutoModelForImageTextToText

    from resprune.processors import load_processor

    folder = train(tmp_path, dataclasses.replace(SMOKE, processes=1), model="nano-qwen2.5-vl")
    loaded = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    assert loaded.config.model_type == "qwen2_5_vl"
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    with pytest.warns(UserWarning, match="images only"):
        processor = load_processor(str(folder))
    assert len(processor.tokenizer) == loaded.config.text_config.vocab_size
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [e["stage"] for e in log if "stage" in e] == list(STAGES)

    before = dict(build_qwen(0).named_parameters())
    at = {s: load_file(tmp_path / "checkpoints" / f"{s}.safetensors") for s in STAGES}
    tower, merger = "model.visual.blocks.0.mlp.up_proj.weight", "model.visual.merger.mlp.0.weight"
    text = "model.language_model.layers.0.mlp.up_proj.weight"

    def same(stage, name, other):
        return torch.equal(at[stage][f"model/{name}"], other)

    assert same("language", tower, before[tower])
    assert not same("language", text, before[text])
    assert not same("alignment", tower, before[tower])
    assert same("projector", tower, at["alignment"][f"model/{tower}"])
    assert not same("projector", merger, at["alignment"][f"model/{merger}"])
    assert same("instruction", tower, at["alignment"][f"model/{tower}"])
    assert not same("instruction", merger, at["projector"][f"model/{merger}"])
    assert not same("instruction", text, at["language"][f"model/{text}"])
