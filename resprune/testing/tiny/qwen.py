"""Tiny random Qwen vision-language models with real processors, made offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from resprune.processors import images_only, load_processor
from resprune.testing.tiny.parts import byte_level_bpe, enlarge_weights

QWEN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The layout of Qwen2.5-VL's own template."""

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
_PROCESSORS = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
}
_PAD, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_PATCH, _MERGE = 4, 2


def tiny_qwen_tokenizer(*, vocabulary: int = 400) -> Any:
    """Make a byte-level BPE tokenizer with Qwen's special tokens, which pads on the left.

    Args:
        vocabulary: At most this many tokens.

    Returns:
        A fast tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=byte_level_bpe([_PAD, _START, _END, *_VISION], vocabulary),
        pad_token=_PAD,
        eos_token=_END,
        extra_special_tokens=[_START, *_VISION],
        padding_side="left",
    )


def tiny_qwen_processor(family: str, *, tokenizer: Any = None) -> Any:
    """Make a Qwen processor for images, which needs no torchvision.

    Args:
        family: One of ``FAMILIES``.
        tokenizer: A tokenizer, or None for ``tiny_qwen_tokenizer()``.

    Returns:
        The processor: patches of 4 pixels, 2 x 2 merged, 4 to 16 visual tokens an image.
    """
    from transformers import Qwen2VLImageProcessorPil

    image_processor: Any = Qwen2VLImageProcessorPil
    edge = _PATCH * _MERGE
    return images_only(_PROCESSORS[family])(
        image_processor=image_processor(
            patch_size=_PATCH,
            merge_size=_MERGE,
            temporal_patch_size=2,
            size={"shortest_edge": 4 * edge**2, "longest_edge": 16 * edge**2},
        ),
        tokenizer=tokenizer if tokenizer is not None else tiny_qwen_tokenizer(),
        chat_template=QWEN_CHAT_TEMPLATE,
    )


def tiny_qwen(
    family: str, *, seed: int = 0, processor: Any = None, folder: Path | None = None
) -> tuple[Any, Any]:
    """Make a random Qwen vision-language model of some thousand parameters.

    Qwen2.5-VL's tower has windows of 2 x 2 tokens and its last block with full attention is not
    its last block; Qwen3-VL's gives two layers of deepstack features.

    Args:
        family: One of ``FAMILIES``.
        seed: Seed of the weights.
        processor: A processor, or None for ``tiny_qwen_processor(family)``.
        folder: Where the processor is saved and loaded again through ``load_processor``; None
            uses it as made.

    Returns:
        The model in float32 and eval mode, and its processor.
    """
    import transformers

    if processor is None:
        processor = tiny_qwen_processor(family)
    if folder is not None:
        processor.save_pretrained(folder)
        processor = load_processor(str(folder))
    tokenizer = processor.tokenizer
    vision: dict[str, Any] = {
        "depth": 3,
        "num_heads": 4,
        "patch_size": _PATCH,
        "temporal_patch_size": 2,
        "spatial_merge_size": _MERGE,
    }
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48}
    if family == "qwen2_5_vl":
        vision |= {"window_size": 2 * _PATCH * _MERGE, "fullatt_block_indexes": [0, 1]}
    if family == "qwen3_vl":
        vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    # a low base, so that height and width turn by as much as time does
    rope = {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [2, 1, 1]}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": rope,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    if family == "qwen3_vl":
        text["head_dim"] = 8
    prefix = _PROCESSORS[family].removesuffix("Processor")
    config = getattr(transformers, f"{prefix}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{prefix}ForConditionalGeneration")(config).eval()
        enlarge_weights(model)
    # a random model stops at its end token by chance; tests want sequences of known length
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor
