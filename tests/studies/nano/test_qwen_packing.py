"""Packed questions give the logits of transformers' own forward, positions included."""

import pytest
import torch

from studies.nano.families import chat_of
from studies.nano.packing import pack, predict
from studies.nano.processor import chat
from studies.nano.questions import generate_questions
from studies.nano.qwen_model import build_qwen
from studies.nano.qwen_processor import build_qwen_processor
from studies.nano.scenes import PATCHES, generate_scene


@pytest.fixture(scope="module")
def model():
    return build_qwen(0).eval()


@torch.no_grad()
def test_packed_logits_are_those_of_the_model(model):
    processor, scene = build_qwen_processor(), generate_scene(2)
    questions = generate_questions(scene, 0, 5)
    images = processor.image_processor(scene.image, return_tensors="pt")
    tokens = model.get_image_features(**images).pooler_output[0][None]
    packed = predict(model, tokens, torch.arange(PATCHES)[None], pack([questions], chat_of(model)))
    for i, q in enumerate(questions):
        prompt = processor.apply_chat_template(chat(q.text), add_generation_prompt=True)
        full = processor(images=scene.image, text=f"{prompt}{q.answer}", return_tensors="pt")
        logits = model(**full).logits[0]
        assert torch.allclose(logits[-2], packed.answer_logits[0, i], atol=1e-4)
        assert torch.allclose(logits[-1], packed.end_logits[0, i], atol=1e-4)
        assert full["input_ids"][0, -1] == packed.answers[0, i]
        assert packed.ends[0, i] == model.config.text_config.eos_token_id


@torch.no_grad()
def test_pruned_logits_are_those_of_the_library(model):
    from resprune.backbones import for_model

    processor, scene = build_qwen_processor(), generate_scene(6)
    question = generate_questions(scene, 0, 1)[0]
    backbone, kept = for_model(model, processor), torch.tensor([3, 50, 51, 190])
    prompt = processor.apply_chat_template(chat(question.text), add_generation_prompt=True)
    inputs = processor(images=scene.image, text=prompt, return_tensors="pt")
    visual = backbone.encode(inputs)
    prepared = backbone.prepare(inputs, visual, [kept])
    wanted = model(**prepared.kwargs).logits[0, -1]
    packed = pack([[question]], chat_of(model))
    found = predict(model, visual[0].tokens[None, kept], kept[None], packed)
    assert torch.allclose(wanted, found.answer_logits[0, 0], atol=1e-4)
