"""Packed questions give the logits of transformers' own forward, one question at a time."""

import pytest
import torch

from studies.nano.model import build_model
from studies.nano.packing import pack, predict
from studies.nano.processor import build_processor, chat
from studies.nano.questions import generate_questions
from studies.nano.scenes import PATCHES, generate_scene


@pytest.fixture(scope="module")
def model():
    return build_model(0).eval()


@torch.no_grad()
def test_packed_logits_are_those_of_the_model(model):
    processor, scene = build_processor(), generate_scene(2)
    questions = generate_questions(scene, 0, 5)
    pixels = processor.image_processor(scene.image, return_tensors="pt")["pixel_values"]
    tokens = model.model.get_image_features(pixels).pooler_output[0][None]
    patches = torch.arange(PATCHES)[None]
    packed = predict(model, tokens, patches, pack([questions]))
    for i, q in enumerate(questions):
        prompt = processor.apply_chat_template(chat(q.text), add_generation_prompt=True)
        full = processor(images=scene.image, text=f"{prompt} {q.answer}", return_tensors="pt")
        logits = model(**full).logits[0]
        assert torch.allclose(logits[-2], packed.answer_logits[0, i], atol=1e-4)
        assert torch.allclose(logits[-1], packed.end_logits[0, i], atol=1e-4)
        assert full["input_ids"][0, -1] == packed.answers[0, i]
        assert packed.ends[0, i] == model.config.text_config.eos_token_id


@torch.no_grad()
def test_pruned_logits_are_those_of_masking_the_dropped_tokens(model):
    scene = generate_scene(6)
    questions = pack([generate_questions(scene, 0, 3)])
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, PATCHES, 128, generator=generator)
    kept = torch.tensor([[3, 50, 51, 190]])
    pruned = predict(model, tokens[:, kept[0]], kept, questions)
    # The same through a mask over all tokens: positions must then be the unpruned ones.
    everything = predict_with_mask(model, tokens, kept[0], questions)
    assert torch.allclose(pruned.answer_logits, everything, atol=1e-4)
    assert not torch.allclose(
        pruned.answer_logits,
        predict(model, tokens, torch.arange(PATCHES)[None], questions).answer_logits,
        atol=1e-2,
    )


def predict_with_mask(model, tokens, kept, questions):
    language_model, outputs = model.model.language_model, []
    for ids, length in zip(questions.ids[0], questions.lengths[0], strict=True):
        prefix = torch.tensor([1, *build_processor().tokenizer("USER:").input_ids[1:]])
        embed = language_model.embed_tokens
        inputs = torch.cat([embed(prefix), tokens[0], embed(ids[:length])])[None]
        visible = torch.ones(1, inputs.shape[1], dtype=torch.long)
        visible[0, len(prefix) : len(prefix) + PATCHES] = 0
        visible[0, len(prefix) + kept] = 1
        positions = torch.arange(inputs.shape[1])[None]
        hidden = language_model(
            inputs_embeds=inputs, attention_mask=visible, position_ids=positions
        ).last_hidden_state
        outputs.append(model.lm_head(hidden[0, -1]))
    return torch.stack(outputs)[None]
