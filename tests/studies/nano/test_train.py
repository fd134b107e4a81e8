"""A few steps of every stage: they train, resume to the same weights, and refuse to mix runs."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from resprune.errors import ResPruneError
from studies.nano.loop import Unfinished
from studies.nano.model import build_model
from studies.nano.recipe import SMOKE, StageSettings
from studies.nano.train import STAGES, train

RECIPE = dataclasses.replace(SMOKE, processes=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    train(out, RECIPE)
    return out


def test_a_run_leaves_a_model_that_loads(whole):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(whole / "model", local_files_only=True)
    processor = AutoProcessor.from_pretrained(whole / "model", local_files_only=True)
    assert processor.tokenizer.vocab_size == model.config.text_config.vocab_size
    assert model.lm_head.weight is model.get_input_embeddings().weight
    record = json.loads((whole / "model" / "training.json").read_text())
    assert record["seed"] == 0
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [e["stage"] for e in log if "stage" in e] == list(STAGES)


def test_each_stage_trains_its_own_part_and_no_other(whole):
    before = dict(build_model(0).named_parameters())
    tower = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    projector = "model.multi_modal_projector.linear_1.weight"
    text = "model.language_model.layers.0.mlp.up_proj.weight"
    words = "model.language_model.embed_tokens.weight"
    at = {s: load_file(whole / "checkpoints" / f"{s}.safetensors") for s in STAGES}

    def same(stage, name, other):
        return torch.equal(at[stage][f"model/{name}"], other)

    assert same("language", tower, before[tower])
    assert not same("language", text, before[text])
    assert not same("alignment", tower, before[tower])
    assert same("projector", tower, at["alignment"][f"model/{tower}"])
    assert not same("projector", projector, at["alignment"][f"model/{projector}"])
    assert same("instruction", tower, at["alignment"][f"model/{tower}"])
    assert not same("instruction", projector, at["projector"][f"model/{projector}"])
    assert not same("instruction", text, at["language"][f"model/{text}"])
    assert not same("instruction", words, at["language"][f"model/{words}"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_ends_with_the_same_weights(whole, tmp_path, stage):
    with pytest.raises(Unfinished):
        train(tmp_path, RECIPE, stop=(stage, 3))
    train(tmp_path, RECIPE)
    wanted = load_file(whole / "model" / "model.safetensors")
    found = load_file(tmp_path / "model" / "model.safetensors")
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensor, found[name]), name


def test_another_seed_or_recipe_does_not_continue_a_run(whole):
    with pytest.raises(ResPruneError, match="another recipe or seed"):
        train(whole, RECIPE, seed=1)
    longer = dataclasses.replace(RECIPE, language=StageSettings(5, 2, 1e-3, 0.01, 2))
    with pytest.raises(ResPruneError, match="choose another folder"):
        train(whole, longer)


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResPruneError, match="file"):
        train(tmp_path / "file" / "run", RECIPE)
