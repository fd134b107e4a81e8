"""The shipped nano-llava-next: small, safe to load, and right through `generate` and its study."""

import json

import pytest
import torch

from studies.nano import model_dir, model_names
from studies.nano.processor import chat
from studies.nano.scenes import generate_wide_scene
from studies.nano.splits import iter_questions

NAME = "nano-llava-next"


@pytest.fixture(scope="module")
def loaded():
    from transformers import LlavaNextForConditionalGeneration

    from resprune.processors import load_processor

    folder = model_dir(NAME)
    model = LlavaNextForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()
    return model, load_processor(str(folder), local_files_only=True)


def test_it_is_small_and_holds_no_pickle():
    assert NAME in model_names()
    files = [p for p in model_dir(NAME).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 8_000_000
    assert {p.suffix for p in files} <= {".json", ".jinja", ".safetensors", ".md"}
    assert json.loads((model_dir(NAME) / "training.json").read_text())["seed"] == 0


def _answers(loaded, questions):
    model, processor = loaded
    for begin in range(0, len(questions), 16):
        batch = questions[begin : begin + 16]
        prompts = [
            processor.apply_chat_template(chat(q.text), add_generation_prompt=True) for q in batch
        ]
        images = [[generate_wide_scene(q.scene_seed).image] for q in batch]
        inputs = processor(images=images, text=prompts, return_tensors="pt", padding=True)
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = out[:, inputs["input_ids"].shape[1] :]
        said = processor.batch_decode(new, skip_special_tokens=True)
        ended = (new[:, 1] == model.config.text_config.eos_token_id).tolist()
        yield from zip(batch, (a.strip() for a in said), ended, strict=True)


@torch.no_grad()
def test_it_answers_questions_that_training_has_not_seen(loaded):
    questions = iter_questions("monitor", 48, offset=4000, scene=generate_wide_scene)
    found = list(_answers(loaded, questions))
    right = {"landscape": [], "portrait": []}
    for q, said, ended in found:
        right["portrait" if q.scene_seed % 2 else "landscape"].append(said == q.answer)
        assert ended
    for canvas, hits in right.items():
        assert sum(hits) >= 0.75 * len(hits) > 0, canvas


@torch.no_grad()
def test_pruned_by_resprune_it_answers_more_than_pruned_at_random(loaded):
    """40 of 588 tokens, by the paper's setting for the family."""
    import resprune

    questions = iter_questions("monitor", 64, offset=4000, scene=generate_wide_scene)
    right = {}
    configs = {
        "resprune": resprune.PruningConfig.paper_default("llava_next", 40),
        "random": resprune.PruningConfig.single(40, method="random"),
    }
    for method, config in configs.items():
        with resprune.attach(*loaded, config):
            right[method] = sum(said == q.answer for q, said, _ in _answers(loaded, questions))
    assert right["resprune"] >= right["random"] + 0.15 * len(questions)


def test_its_study_asks_about_wide_scenes():
    from tuner.study import find_study, load_study
    from tuner.tasks import make

    study = load_study(find_study(NAME))
    assert study.backbone.model == NAME
    sample = make(study.task).samples("report", 9)[-1]
    assert sample.load_image().size == (112, 224)
    asked = iter_questions("report", 9, scene=generate_wide_scene)[-1]
    assert (sample.question, sample.answers) == (asked.text, (asked.answer,))
