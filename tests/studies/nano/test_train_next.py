"""A few steps of nano-llava-next's stages: where it starts, what trains, and resuming."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from resprune.errors import ResPruneError
from studies.nano import model_dir
from studies.nano.loop import Unfinished
from studies.nano.models.llava_next import SMOKE, build_model
from studies.nano.train import train

RECIPE = dataclasses.replace(SMOKE, processes=1)
STAGES = ("alignment", "projector", "instruction")
NAME = "nano-llava-next"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    train(out, RECIPE, model=NAME)
    return out


def test_it_starts_from_nano_llava_and_each_stage_trains_its_part(whole):
    start = load_file(model_dir("nano-llava") / "model.safetensors")
    before = dict(build_model(0).named_parameters())
    tower = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    projector = "model.multi_modal_projector.linear_1.weight"
    text = "model.language_model.layers.0.mlp.up_proj.weight"
    newline = "model.image_newline"
    shipped = start["language_model.model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(before[text], shipped)
    at = {s: load_file(whole / "checkpoints" / f"{s}.safetensors") for s in STAGES}

    def moved(stage, name, other):
        return not torch.equal(at[stage][f"model/{name}"], other)

    assert moved("alignment", tower, before[tower])
    assert not moved("alignment", text, before[text])
    assert not moved("projector", tower, at["alignment"][f"model/{tower}"])
    assert moved("projector", projector, at["alignment"][f"model/{projector}"])
    assert not moved("instruction", tower, at["alignment"][f"model/{tower}"])
    assert moved("instruction", text, before[text])
    assert moved("instruction", newline, before[newline])


def test_a_run_leaves_a_model_that_loads(whole):
    from transformers import AutoProcessor, LlavaNextForConditionalGeneration

    folder = whole / "model"
    model = LlavaNextForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    assert processor.tokenizer.vocab_size == model.config.text_config.vocab_size
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert json.loads((folder / "training.json").read_text())["seed"] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_ends_with_the_same_weights(whole, tmp_path, stage):
    with pytest.raises(Unfinished):
        train(tmp_path, RECIPE, stop=(stage, 3), model=NAME)
    train(tmp_path, RECIPE, model=NAME)
    wanted = load_file(whole / "model" / "model.safetensors")
    found = load_file(tmp_path / "model" / "model.safetensors")
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensor, found[name]), name


def test_another_model_does_not_continue_a_run(whole):
    with pytest.raises(ResPruneError, match="another model"):
        train(whole, RECIPE, model="nano-llava")
    with pytest.raises(ResPruneError, match="Did you mean 'nano-llava-next'"):
        train(whole, RECIPE, model="nano-llava-nxt")
