"""Tiny random models of the families that look at several views, with real processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from resprune.processors import images_only, load_processor
from resprune.testing.tiny.parts import byte_level_bpe, enlarge_weights

FAMILIES = ("llava_next", "llava_onevision", "idefics3", "smolvlm", "internvl", "gemma3")
_PAD, _BOS, _EOS = "<pad>", "<s>", "</s>"
_MEAN = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_EDGE, _PATCH = 28, 7  # four cells along each edge of a view
_SMALL_EDGE, _SMALL_PATCH = 24, 4  # six cells, which a 2 x 2 shuffle makes three
_PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
_NAMED: dict[str, dict[str, str]] = {
    "llava_next": {"image_token": "<image>"},
    "llava_onevision": {"image_token": "<image>", "video_token": "<video>"},
    "idefics3": {},
    "smolvlm": {},
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "gemma3": {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    },
}
_TAGS = (
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    "<image>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
)
_SHOWN = {"internvl": "<IMG_CONTEXT>", "gemma3": "<start_of_image>"}


def tiled_chat_template(family: str) -> str:
    """Return a chat template of the family's own layout.

    Args:
        family: One of ``FAMILIES``.

    Returns:
        A Jinja template that takes system, user and assistant turns.
    """
    image = _SHOWN.get(family, "<image>")
    role, start, end, ask = {
        "llava_next": ("message['role'].upper()", ": ", " ", "ASSISTANT:"),
        "idefics3": ("message['role'] | capitalize", ": ", "<end_of_utterance>\n", "Assistant:"),
        "gemma3": (
            "'<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role'])",
            "\n",
            "<end_of_turn>\n",
            "<start_of_turn>model\n",
        ),
    }.get(
        {"smolvlm": "idefics3"}.get(family, family),
        ("'<|im_start|>' + message['role']", "\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
    )
    between = "\\n" if family == "llava_next" else ""
    return (
        "{% for message in messages %}{{ " + role + " }}{{ " + repr(start) + " }}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '" + image + between + "' }}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ " + repr(end) + " }}{% endfor %}"
        "{% if add_generation_prompt %}{{ " + repr(ask) + " }}{% endif %}"
    )


def tiled_tokenizer(family: str, *, vocabulary: int = 420) -> Any:
    """Make a byte-level BPE tokenizer with the family's special tokens, padding on the left.

    Args:
        family: One of ``FAMILIES``.
        vocabulary: At most this many tokens.

    Returns:
        A fast tokenizer.
    """
    import transformers

    library: Any = transformers
    named = _NAMED[family]
    tags = list(_TAGS) if family in ("idefics3", "smolvlm") else []
    marks = ["<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
    special = dict.fromkeys([_PAD, _BOS, _EOS, *named.values(), *tags, *marks])
    return library.PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(list(special), vocabulary),
        pad_token=_PAD,
        bos_token=_BOS,
        eos_token=_EOS,
        extra_special_tokens=named or [*tags, *marks],
        padding_side="left",
    )


def tiled_processor(family: str, *, tokenizer: Any = None) -> Any:
    """Make a family's processor, which needs no torchvision.

    Args:
        family: One of ``FAMILIES``.
        tokenizer: A tokenizer, or None for ``tiled_tokenizer(family)``.

    Returns:
        The processor, with a chat template.
    """
    import transformers

    library: Any = transformers
    options: dict[str, Any] = {
        "tokenizer": tokenizer if tokenizer is not None else tiled_tokenizer(family),
        "chat_template": tiled_chat_template(family),
    }
    square = {"height": _EDGE, "width": _EDGE}
    if family == "llava_next":
        return library.LlavaNextProcessor(
            image_processor=library.LlavaNextImageProcessorPil(
                size={"shortest_edge": _EDGE}, crop_size=square, image_grid_pinpoints=_PINPOINTS
            ),
            patch_size=_PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            **options,
        )
    if family == "llava_onevision":
        return images_only("LlavaOnevisionProcessor")(
            image_processor=library.LlavaOnevisionImageProcessorPil(
                size=square, image_grid_pinpoints=[*_PINPOINTS, [56, 112]], **_MEAN
            ),
            num_image_tokens=(_EDGE // _PATCH) ** 2,
            vision_feature_select_strategy="full",
            vision_aspect_ratio="anyres_max_2",
            **options,
        )
    if family in ("idefics3", "smolvlm"):
        name = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[family]
        cls = library.Idefics3Processor if family == "idefics3" else images_only("SmolVLMProcessor")
        return cls(
            image_processor=getattr(library, f"{name}ImageProcessorPil")(
                size={"longest_edge": 2 * _SMALL_EDGE}, max_image_size={"longest_edge": _SMALL_EDGE}
            ),
            image_seq_len=(_SMALL_EDGE // _SMALL_PATCH // 2) ** 2,
            **options,
        )
    small = {"height": _SMALL_EDGE, "width": _SMALL_EDGE}
    if family == "internvl":
        return images_only("InternVLProcessor")(
            image_processor=library.GotOcr2ImageProcessorPil(
                size=small, crop_to_patches=True, min_patches=1, max_patches=3
            ),
            image_seq_length=(_SMALL_EDGE // _SMALL_PATCH // 2) ** 2,
            **options,
        )
    return library.Gemma3Processor(
        image_processor=library.Gemma3ImageProcessorPil(size=small),
        image_seq_length=(_SMALL_EDGE // _SMALL_PATCH // 2) ** 2,
        **options,
    )


def tiny_tiled(
    family: str, *, seed: int = 0, processor: Any = None, folder: Path | None = None
) -> tuple[Any, Any]:
    """Make a random model of a family, of some thousand parameters.

    Args:
        family: One of ``FAMILIES``.
        seed: Seed of the weights.
        processor: A processor, or None for ``tiled_processor(family)``.
        folder: Where the processor is saved and loaded again through ``load_processor``; None
            uses it as made.

    Returns:
        The model in float32 and eval mode, and its processor.
    """
    import transformers

    library: Any = transformers
    if processor is None:
        processor = tiled_processor(family)
    if folder is not None:
        processor.save_pretrained(folder)
        processor = load_processor(str(folder))
    name, config = _config(family, processor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(library, f"{name}ForConditionalGeneration")(config).eval()
        enlarge_weights(model)
        _draw_vectors(model)
    # a random model stops at its end token by chance; tests want sequences of known length
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor


def _draw_vectors(model: torch.nn.Module) -> None:
    """Give single vectors that start as zeros values of their own: newlines, CLS tokens."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("image_newline", "cls_token")):
                value.normal_(0.0, 0.5)


def _config(family: str, processor: Any) -> tuple[str, Any]:
    import transformers

    library: Any = transformers
    tokenizer = processor.tokenizer
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        **special,
    }
    vision: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": _EDGE,
        "patch_size": _PATCH,
    }
    small = {**vision, "image_size": _SMALL_EDGE, "patch_size": _SMALL_PATCH}
    if family == "llava_next":
        return "LlavaNext", library.LlavaNextConfig(
            vision_config=library.CLIPVisionConfig(**vision),
            text_config=library.LlamaConfig(**text),
            image_token_index=processor.image_token_id,
            image_grid_pinpoints=_PINPOINTS,
            **special,
        )
    if family == "llava_onevision":
        return "LlavaOnevision", library.LlavaOnevisionConfig(
            vision_config=library.SiglipVisionConfig(**vision, vision_use_head=False),
            text_config=library.Qwen2Config(**text),
            image_token_index=processor.image_token_id,
            video_token_index=processor.video_token_id,
            image_grid_pinpoints=[*_PINPOINTS, [56, 112]],
            vision_aspect_ratio="anyres_max_2",
            **special,
        )
    if family in ("idefics3", "smolvlm"):
        name = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[family]
        return name, getattr(library, f"{name}Config")(
            vision_config=small,
            text_config=library.LlamaConfig(**text),
            image_token_id=processor.image_token_id,
            scale_factor=2,
            **special,
        )
    if family == "internvl":
        return "InternVL", library.InternVLConfig(
            vision_config={**small, "use_qk_norm": True, "layer_scale_init_value": 1.0},
            text_config=library.Qwen2Config(**text),
            image_token_id=processor.image_token_id,
            image_seq_length=processor.image_seq_length,
            **special,
        )
    text |= {"num_hidden_layers": 3, "head_dim": 8, "sliding_window": 24}
    text |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    return "Gemma3", library.Gemma3Config(
        vision_config=library.SiglipVisionConfig(**small, vision_use_head=False),
        text_config=library.Gemma3TextConfig(**text, query_pre_attn_scalar=8),
        mm_tokens_per_image=processor.image_seq_length,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        **special,
    )
