"""A tiny random LLaVA-1.5 with its real processor, made offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from resprune.testing.tiny.parts import byte_level_bpe, enlarge_weights

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'][0]['text'] + ' ' }}"
    "{% else %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] + ' ' }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The layout of LLaVA-1.5's own template."""

_SELECTED: dict[str, dict[str, Any]] = {
    "clip": {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    "siglip": {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 0},
}
_PAD, _BOS, _EOS, _IMAGE = "<pad>", "<s>", "</s>", "<image>"


def tiny_tokenizer(*, lower: bool = False, vocabulary: int = 400) -> Any:
    """Make a byte-level BPE tokenizer with ``<image>`` as a special token.

    Args:
        lower: Lower-case all text, as small models' tokenizers may.
        vocabulary: At most this many tokens.

    Returns:
        A fast tokenizer that pads on the left.
    """
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level_bpe([_PAD, _BOS, _EOS, _IMAGE], vocabulary, lower=lower)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{_BOS} $A", special_tokens=[(_BOS, tokenizer.token_to_id(_BOS))]
    )
    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        bos_token=_BOS,
        eos_token=_EOS,
        extra_special_tokens={"image_token": _IMAGE},
        padding_side="left",
    )


def tiny_llava_processor(
    *, image_size: int = 28, patch_size: int = 7, tokenizer: Any = None, tower: str = "clip"
) -> Any:
    """Make a ``LlavaProcessor`` that needs no torchvision.

    Args:
        image_size: Edge of the view in pixels.
        patch_size: Edge of a patch.
        tokenizer: A tokenizer, or None for ``tiny_tokenizer()``.
        tower: ``clip``, or ``siglip``, which has no CLS token.

    Returns:
        The processor, with a chat template of LLaVA-1.5's layout.
    """
    library = _transformers()
    square = {"height": image_size, "width": image_size}
    if tower == "siglip":
        image_processor = library.SiglipImageProcessorPil(size=square)
    else:
        image_processor = library.CLIPImageProcessorPil(
            size={"shortest_edge": image_size}, crop_size=square
        )
    return library.LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer if tokenizer is not None else tiny_tokenizer(),
        patch_size=patch_size,
        **_SELECTED[tower],
        chat_template=CHAT_TEMPLATE,
    )


def tiny_llava(
    *,
    seed: int = 0,
    image_size: int = 28,
    patch_size: int = 7,
    vision_feature_layer: int | list[int] = -2,
    tower: str = "clip",
    processor: Any = None,
    folder: Path | None = None,
) -> tuple[Any, Any]:
    """Make a random LLaVA-1.5 of some thousand parameters.

    Args:
        seed: Seed of the weights.
        image_size: Edge of the view in pixels.
        patch_size: Edge of a patch; T = (image_size / patch_size)^2.
        vision_feature_layer: As in ``LlavaConfig``.
        tower: ``clip``, or ``siglip``, which has no CLS token.
        processor: A processor, or None for ``tiny_llava_processor()``.
        folder: Where the processor is saved and loaded again through ``AutoProcessor``; None
            uses it as made.

    Returns:
        The model in float32 and eval mode, and its processor.
    """
    library = _transformers()
    if processor is None:
        processor = tiny_llava_processor(image_size=image_size, patch_size=patch_size, tower=tower)
    if folder is not None:
        processor.save_pretrained(folder)
        processor = library.AutoProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": image_size,
        "patch_size": patch_size,
    }
    config = library.LlavaConfig(
        vision_config=library.SiglipVisionConfig(**vision, vision_use_head=False)
        if tower == "siglip"
        else library.CLIPVisionConfig(**vision),
        text_config=library.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            **special,
        ),
        image_token_index=processor.image_token_id,
        vision_feature_layer=vision_feature_layer,
        vision_feature_select_strategy=_SELECTED[tower]["vision_feature_select_strategy"],
        **special,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = library.LlavaForConditionalGeneration(config).eval()
        enlarge_weights(model)
    # a random model stops at its end token by chance; tests want sequences of known length
    model.generation_config.eos_token_id = None
    return model, processor


def _transformers() -> Any:
    # its annotations are partial, and it is only needed once a model is made
    import transformers

    return transformers
