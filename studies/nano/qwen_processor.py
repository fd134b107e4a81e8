"""The processor of nano-qwen2.5-vl: the words of nano-llava under Qwen's chat template."""

from __future__ import annotations

from typing import Any

from studies.nano.processor import (
    PIXEL_MEAN,
    PIXEL_STD,
    UNKNOWN,
    build_word_tokenizer,
    vocabulary,
)
from studies.nano.scenes import IMAGE_SIZE

PAD, START, EOS, IMAGE = _SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>")
VISION = ("<|vision_start|>", "<|vision_end|>")
VIDEO = "<|video_pad|>"
_SMALL_PATCH, _MERGE = 4, 2

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_vocabulary() -> list[str]:
    """Return the tokens in order of their ids; every word has the id that it has in nano-llava."""
    return [*_SPECIAL, *vocabulary()[len(_SPECIAL) :], *VISION, VIDEO]


def build_qwen_tokenizer() -> Any:
    """Build the word-level tokenizer, which pads on the left."""
    return build_word_tokenizer(
        qwen_vocabulary(),
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[START, IMAGE, *VISION, VIDEO],
    )


def build_qwen_processor() -> Any:
    """Build the `Qwen2_5_VLProcessor` for images; it saves and loads like any other."""
    from transformers import Qwen2VLImageProcessorPil

    from resprune.processors import images_only

    image_processor: Any = Qwen2VLImageProcessorPil
    images = image_processor(
        patch_size=_SMALL_PATCH,
        merge_size=_MERGE,
        temporal_patch_size=2,
        size={"shortest_edge": 28**2, "longest_edge": IMAGE_SIZE**2},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return images_only("Qwen2_5_VLProcessor")(
        image_processor=images, tokenizer=build_qwen_tokenizer(), chat_template=CHAT_TEMPLATE
    )
