"""The shipped nano-qwen2.5-vl: small, safe to load, right through its processor and `generate`."""

import dataclasses
import json
import warnings

import pytest
import torch

from studies.nano import model_dir
from studies.nano.models.qwen2_5_vl import FULL
from studies.nano.processor import chat
from studies.nano.scenes import generate_scene
from studies.nano.splits import iter_questions

NAME = "nano-qwen2.5-vl"


@pytest.fixture(scope="module")
def loaded():
    from transformers import AutoModelForImageTextToText

    from resprune.processors import load_processor

    folder = model_dir(NAME)
    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, load_processor(str(folder))


def test_it_is_small_and_holds_no_pickle():
    files = [p for p in model_dir(NAME).rglob("*") if p.is_file()]
    assert (model_dir(NAME) / "model.safetensors").stat().st_size <= 8_000_000
    assert sum(p.stat().st_size for p in files) <= 8_500_000
    assert {p.suffix for p in files} <= {".json", ".jinja", ".safetensors", ".md"}


@torch.no_grad()
def test_it_answers_questions_that_training_has_not_seen(loaded):
    model, processor = loaded
    questions = iter_questions("monitor", 48, offset=4000)
    right = ended = 0
    for begin in range(0, len(questions), 16):
        batch = questions[begin : begin + 16]
        prompts = [
            processor.apply_chat_template(chat(q.text), add_generation_prompt=True) for q in batch
        ]
        images = [generate_scene(q.scene_seed).image for q in batch]
        inputs = processor(images=images, text=prompts, return_tensors="pt", padding=True)
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = out[:, inputs["input_ids"].shape[1] :]
        answers = processor.batch_decode(new, skip_special_tokens=True)
        right += sum(a.strip() == q.answer for a, q in zip(answers, batch, strict=True))
        ended += (new[:, 1] == model.config.text_config.eos_token_id).sum().item()
    assert right >= 0.75 * len(questions)
    assert ended == len(questions)


@torch.no_grad()
def test_it_sees_images_of_other_sizes(loaded):
    model, processor = loaded
    scene = generate_scene(iter_questions("monitor", 1, offset=4000)[0].scene_seed)
    part = scene.image.crop((0, 0, 112, 64))
    inputs = processor.image_processor(part, return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 16, 28]]
    assert model.get_image_features(**inputs).pooler_output[0].shape == (8 * 14, 128)


def test_the_recipe_of_the_shipped_model_is_the_one_in_the_code():
    record = json.loads((model_dir(NAME) / "training.json").read_text())
    assert record["recipe"] == dataclasses.asdict(FULL)
    assert record["seed"] == 0
