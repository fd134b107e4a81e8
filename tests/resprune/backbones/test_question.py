"""Question recovery under several chat templates and tokenizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resprune.backbones import for_model
from resprune.backbones._question import strip_instructions
from resprune.testing.tiny import tiny_llava, tiny_llava_processor, tiny_tokenizer

QUESTION = "What color is the dog?"
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful dog.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'][0]['text'] + '</s>' }}{% endif %}{% endfor %}"
)
PLAIN_CONTENT = (
    "{% for message in messages %}{{ '### ' + message['role'] + '\n' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif %}"
)


def user(text: str, images: int = 0) -> dict[str, Any]:
    content: list[dict[str, str]] = [{"type": "image"}] * images
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": "text", "text": text}]}


def backbone_with(template: str | None, *, lower: bool = False) -> Any:
    processor = tiny_llava_processor(tokenizer=tiny_tokenizer(lower=lower))
    if template != "llava":
        processor.chat_template = template
    return for_model(*tiny_llava(processor=processor))


def ids_of(backbone: Any, text: str, *, expand: bool = True) -> torch.Tensor:
    image = backbone.processor.image_token
    text = text.replace(image, image * backbone.visual_tokens) if expand else text
    return torch.tensor(backbone.tokenizer(text)["input_ids"])


@pytest.mark.parametrize("template", ["llava", CHATML, MISTRAL], ids=["llava", "chatml", "mistral"])
@pytest.mark.parametrize("lower", [False, True])
def test_last_user_turn(template: str, lower: bool) -> None:
    backbone = backbone_with(template, lower=lower)
    assert backbone.markers.from_template
    dialogues = [
        [user(QUESTION, 1)],
        [user(QUESTION, 3)],
        [user(f"{QUESTION}\nAnswer the question using a single word or phrase.", 1)],
        [user("How many cats are there?", 1), assistant("Two tables."), user(QUESTION)],
        [user("How many cats are there?", 1), assistant("Two tables."), user(QUESTION, 1)],
    ]
    if template != MISTRAL:
        dialogues.append([system("Speak of tables."), user(QUESTION, 1)])
    for dialogue in dialogues:
        for generation_prompt in (True, False):
            text = backbone.processor.apply_chat_template(
                dialogue, add_generation_prompt=generation_prompt
            )
            found = backbone.question(ids_of(backbone, text))
            assert found == (QUESTION.lower() if lower else QUESTION)


@pytest.mark.parametrize("template", ["llava", CHATML, MISTRAL], ids=["llava", "chatml", "mistral"])
def test_the_answer_is_not_read(template: str) -> None:
    """Relevance that sees the answer shows a false optimum."""
    backbone = backbone_with(template)
    dialogue = [user(QUESTION, 1), assistant("A brown table.")]
    text = backbone.processor.apply_chat_template(dialogue)
    assert backbone.question(ids_of(backbone, text)) == QUESTION
    assert backbone.question(ids_of(backbone, text), closed=True) == QUESTION


def test_closed_gives_nothing_without_a_mark_of_the_end() -> None:
    backbone = backbone_with("llava")
    ids = ids_of(backbone, "<image>\na brown table")
    assert backbone.question(ids) == "a brown table"
    assert backbone.question(ids, closed=True) == ""


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_text(side: str) -> None:
    backbone = backbone_with("llava")
    ids = ids_of(backbone, f"<image>\n{QUESTION}")
    pad = torch.full((5,), backbone.tokenizer.pad_token_id)
    padded = torch.cat([pad, ids] if side == "left" else [ids, pad])
    assert backbone.question(padded) == QUESTION


def test_text_around_images() -> None:
    backbone = backbone_with("llava")

    def recovered(text: str) -> str:
        return str(backbone.question(ids_of(backbone, f"USER: {text} ASSISTANT:")))

    assert recovered(f"First: <image> Second: <image> {QUESTION}") == QUESTION
    assert recovered(f"{QUESTION} <image>") == QUESTION
    assert recovered("<image>") == ""
    assert recovered(f"<image>{QUESTION}\nA. red\nB. blue") == f"{QUESTION}\nA. red\nB. blue"
    assert recovered("<image>\nIs SUPERUSER: a word?") == "Is SUPERUSER: a word?"


@pytest.mark.parametrize(
    "prompt",
    [
        f"USER: <image>\n{QUESTION} ASSISTANT:",
        f"USER: <image>\n{QUESTION} ASSISTANT: A brown table.",
        f"USER: <image>\nHow many? ASSISTANT: Two. USER: {QUESTION} ASSISTANT:",
        f"<|im_start|>user\n<image>{QUESTION}<|im_end|>\n<|im_start|>assistant\nA table",
        f"[INST] <image>\n{QUESTION} [/INST] A table",
        f"<image>\n{QUESTION}",
        f"{QUESTION}<image>",
    ],
)
def test_without_a_template_common_markers_serve(prompt: str) -> None:
    backbone = backbone_with(None)
    assert not backbone.markers.from_template
    assert backbone.question(ids_of(backbone, prompt)) == QUESTION


def test_template_of_plain_content() -> None:
    backbone = backbone_with(PLAIN_CONTENT)
    text = f"### user\n<image>{QUESTION}\n### assistant\nA table"
    assert backbone.markers.from_template
    assert backbone.question(ids_of(backbone, text)) == QUESTION


def test_a_word_level_tokenizer() -> None:
    """Spaces, case and unknown words are lost on the way; the question is found all the same."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = [
        "what",
        "color",
        "is",
        "the",
        "dog",
        "?",
        "user",
        "assistant",
        ":",
        "a",
        "or",
        ".",
        "using",
        "question",
        "brown",
        "table",
    ]
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *known]
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    backbone = for_model(*tiny_llava(processor=tiny_llava_processor(tokenizer=tokenizer)))
    suffix = "\nAnswer the question using a single word or phrase."
    for text in (QUESTION, QUESTION + suffix):
        prompt = backbone.chat_prompt(text) + " A brown table."
        assert backbone.question(ids_of(backbone, prompt)) == QUESTION.lower()


def test_a_broken_template_falls_back() -> None:
    backbone = backbone_with("{{ raise_exception('no') }}")
    assert not backbone.markers.from_template


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (f"{QUESTION}\nAnswer the question using a single word or phrase.", QUESTION),
        (f"{QUESTION}  answer the question using a single word or phrase .", QUESTION),
        (
            "Is it?\nWhen the provided information is insufficient, respond with 'Unanswerable'."
            "\nAnswer the question using a single word or phrase.",
            "Is it?",
        ),
        ("Is it? Please answer yes or no.", "Is it?"),
        ("A. x\nAnswer with the option's letter from the given choices directly.", "A. x"),
        ("猫?\n请直接回答选项字母。", "猫?"),
        ("Please answer yes or no. Is it?", "Please answer yes or no. Is it?"),
        ("Answer the question using a single word or phrase.", ""),
        ("Does Mr. Preanswer yes or no?", "Does Mr. Preanswer yes or no?"),
        ("", ""),
    ],
)
def test_instructions_are_stripped(text: str, asked: str) -> None:
    assert strip_instructions(text) == asked
