"""The shipped model: small, safe to load, and right through its own processor and `generate`."""

import json

import pytest
import torch

from resprune.errors import ResPruneError
from studies.nano import model_dir, model_names
from studies.nano.processor import chat
from studies.nano.questions import Question
from studies.nano.scenes import generate_scene
from studies.nano.splits import iter_questions


@pytest.fixture(scope="module")
def loaded():
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = model_dir()
    model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()
    return model, AutoProcessor.from_pretrained(folder, local_files_only=True)


def test_it_is_small_and_holds_no_pickle():
    files = [p for p in model_dir().rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 10_000_000
    assert {p.suffix for p in files} <= {".json", ".jinja", ".safetensors", ".md"}
    assert json.loads((model_dir() / "training.json").read_text())["seed"] == 0


@torch.no_grad()
def test_it_answers_questions_that_training_has_not_seen(loaded):
    model, processor = loaded
    questions = iter_questions("monitor", 64, offset=4000)
    right = ended = 0
    for begin in range(0, len(questions), 16):
        batch = questions[begin : begin + 16]
        prompts = [
            processor.apply_chat_template(chat(q.text), add_generation_prompt=True) for q in batch
        ]
        images = [[generate_scene(q.scene_seed).image] for q in batch]
        inputs = processor(images=images, text=prompts, return_tensors="pt", padding=True)
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = out[:, inputs["input_ids"].shape[1] :]
        answers = processor.batch_decode(new, skip_special_tokens=True)
        right += sum(a.strip() == q.answer for a, q in zip(answers, batch, strict=True))
        ended += (new[:, 1] == model.config.text_config.eos_token_id).sum().item()
    assert right >= 0.85 * len(questions)
    assert ended == len(questions)


@torch.no_grad()
def test_the_cls_token_looks_at_objects_more_than_chance(loaded):
    from studies.nano.evaluate import encode

    seeds = [q.scene_seed for q in iter_questions("monitor", 160, offset=4000)[::8]]
    _, attention = encode(loaded[0], seeds)
    labels = torch.stack([torch.from_numpy(generate_scene(s).patch_labels[:, 0]) for s in seeds])
    on_objects = (attention * (labels >= 0)).sum(1) / attention.sum(1)
    assert on_objects.mean() > 1.15 * (labels >= 0).float().mean()


def test_an_unknown_model_is_named_with_the_known_ones():
    assert "nano-llava" in model_names()
    with pytest.raises(ResPruneError, match="Did you mean 'nano-llava'"):
        model_dir("nano-lava")
    with pytest.raises(ResPruneError, match="Allowed: nano-llava"):
        model_dir("gpt")
    with pytest.raises(ResPruneError, match="no embedded model"):
        model_dir("../nano-llava")


def test_a_question_is_plain_data():
    assert Question("color", "What color is the star?", "red").answer == "red"
