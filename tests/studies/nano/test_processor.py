"""The processor: saved, loaded, and without <unk> on anything that the questions say."""

import numpy as np
import pytest
import torch

from studies.nano.processor import IMAGE, UNKNOWN, build_processor, chat, vocabulary
from studies.nano.questions import TEMPLATES, render
from studies.nano.scenes import COLOR_NAMES, PLURALS, SHAPES, generate_scene


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def test_every_wording_and_answer_is_in_the_vocabulary(processor):
    unknown = processor.tokenizer.convert_tokens_to_ids(UNKNOWN)
    texts = [
        render(template, subject)
        for templates in TEMPLATES.values()
        for template in templates
        for subject in (*SHAPES, *COLOR_NAMES)
    ]
    rendered = [processor.apply_chat_template(chat(t), add_generation_prompt=True) for t in texts]
    for text in [*texts, *rendered, *SHAPES, *PLURALS.values(), *COLOR_NAMES, "yes no 0 9"]:
        assert unknown not in processor.tokenizer(text)["input_ids"], text
    assert unknown in processor.tokenizer("zeppelin")["input_ids"]
    assert len(set(vocabulary())) == len(vocabulary())


def test_the_prompt_holds_196_image_tokens_and_the_template(processor):
    prompt = processor.apply_chat_template(chat("Is there a star?"), add_generation_prompt=True)
    assert prompt == "USER: <image>\nIs there a star? ASSISTANT:"
    inputs = processor(images=generate_scene(0).image, text=prompt, return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    words = ["is", "there", "a", "star", "?", "assistant", ":"]
    assert tokens == ["<s>", "user", ":", *[IMAGE] * 196, *words]


def test_offsets_point_at_the_words(processor):
    text = "How many STARS, 42 of them?"
    encoded = processor.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    pieces = [text[a:b] for a, b in encoded["offset_mapping"]]
    assert pieces == ["How", "many", "STARS", ",", "4", "2", "of", "them", "?"]


def test_pixels_are_scaled_to_one_and_not_resampled(processor):
    image = generate_scene(4).image
    pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    wanted = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(pixels.float(), wanted, atol=1e-6)


def test_saved_and_loaded_it_does_the_same(processor, tmp_path):
    from transformers import AutoProcessor

    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    prompt = loaded.apply_chat_template(chat("Count the stars."), add_generation_prompt=True)
    image = generate_scene(1).image
    one = processor(images=image, text=prompt, return_tensors="pt")
    two = loaded(images=image, text=prompt, return_tensors="pt")
    assert torch.equal(one["input_ids"], two["input_ids"])
    assert torch.equal(one["pixel_values"], two["pixel_values"])
    assert loaded.tokenizer.padding_side == "left"


def test_several_turns_and_plain_text_render(processor):
    talk = [*chat("Is there a star?"), {"role": "assistant", "content": "yes"}]
    talk.append({"role": "user", "content": "Count the stars."})
    wanted = "USER: <image>\nIs there a star? ASSISTANT: yes USER: Count the stars. ASSISTANT:"
    assert processor.apply_chat_template(talk, add_generation_prompt=True) == wanted
