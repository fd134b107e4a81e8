"""Models of the size that people serve, with random weights: real widths, no download.

Time, arithmetic and memory do not depend on the values of weights, but for the selection, which is
faster or slower on other features (``docs/performance.md``). The tokenizer is a small stand-in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from resprune.budget import BudgetLike
from resprune.errors import StudyError, near_names
from resprune.processors import images_only
from resprune.testing.tiny import (
    tiled_processor,
    tiny_llava_processor,
    tiny_qwen_tokenizer,
)
from resprune.testing.tiny.qwen import QWEN_CHAT_TEMPLATE

_CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
    "image_size": 336,
    "patch_size": 14,
}
_VICUNA = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
    },
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
    },
}
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_QWEN = {
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
}
_QWEN_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


@dataclass(frozen=True)
class Shape:
    """A model of real size.

    Attributes:
        source: The checkpoint whose config it has.
        budgets: The paper's budgets for it.
        edge: Edge in pixels of the square images it is shown.
        parts: Makes its config and its processor.
        model_class: Its class in transformers.
    """

    source: str
    budgets: tuple[BudgetLike, ...]
    edge: int
    parts: Callable[[], tuple[Any, Any]]
    model_class: str

    def build(self, layers: int | None, device: torch.device, dtype: torch.dtype) -> Built:
        """Make the model.

        Args:
            layers: Decoder layers to make; None for all.
            device: Where it lies.
            dtype: Of its weights.
        """
        import transformers

        config, processor = self.parts()
        full = int(config.text_config.num_hidden_layers)
        if layers is not None:
            config.text_config.num_hidden_layers = layers
            if getattr(config.text_config, "layer_types", None):
                config.text_config.layer_types = config.text_config.layer_types[:layers]
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with device, torch.random.fork_rng():
                torch.manual_seed(0)
                model = getattr(transformers, self.model_class)(config).eval()
        finally:
            torch.set_default_dtype(before)
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
        return Built(model, processor, full)


@dataclass(frozen=True)
class Built:
    """A model that was made.

    Attributes:
        model: The model.
        processor: Its processor, with a small tokenizer.
        layers: Decoder layers of the real one.
    """

    model: Any
    processor: Any
    layers: int


def _llava(size: str) -> Callable[[], tuple[Any, Any]]:
    def parts() -> tuple[Any, Any]:
        import transformers

        library: Any = transformers
        processor = tiny_llava_processor(image_size=336, patch_size=14)
        return library.LlavaConfig(
            vision_config=library.CLIPVisionConfig(**_CLIP),
            text_config=library.LlamaConfig(**_VICUNA[size], **_special(processor)),
            image_token_index=processor.image_token_id,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        ), processor

    return parts


def _llava_next() -> tuple[Any, Any]:
    import transformers

    library: Any = transformers
    small = tiled_processor("llava_next")
    processor = library.LlavaNextProcessor(
        image_processor=library.LlavaNextImageProcessorPil(
            size={"shortest_edge": 336},
            crop_size={"height": 336, "width": 336},
            image_grid_pinpoints=_PINPOINTS,
        ),
        tokenizer=small.tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=small.chat_template,
    )
    return library.LlavaNextConfig(
        vision_config=library.CLIPVisionConfig(**_CLIP),
        text_config=library.LlamaConfig(**_VICUNA["7b"], **_special(processor)),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=_PINPOINTS,
    ), processor


def _qwen(size: str) -> Callable[[], tuple[Any, Any]]:
    def parts() -> tuple[Any, Any]:
        import transformers

        library: Any = transformers
        processor = images_only("Qwen2_5_VLProcessor")(
            image_processor=library.Qwen2VLImageProcessorPil(
                patch_size=14,
                merge_size=2,
                temporal_patch_size=2,
                size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384},
            ),
            tokenizer=tiny_qwen_tokenizer(),
            chat_template=QWEN_CHAT_TEMPLATE,
        )
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
        text = {**_QWEN[size], **_special(processor), "rope_parameters": rope}
        start = processor.tokenizer.convert_tokens_to_ids("<|vision_start|>")
        end = processor.tokenizer.convert_tokens_to_ids("<|vision_end|>")
        return library.Qwen2_5_VLConfig(
            text_config=text,
            vision_config={**_QWEN_VISION, "out_hidden_size": _QWEN[size]["hidden_size"]},
            image_token_id=processor.image_token_id,
            video_token_id=processor.video_token_id,
            vision_start_token_id=start,
            vision_end_token_id=end,
        ), processor

    return parts


def _special(processor: Any) -> dict[str, int | None]:
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {name: getattr(processor.tokenizer, name) for name in names}


_OF_576, _OF_2880, _SHARES = (192, 128, 64), (640, 320, 160), (0.333, 0.222, 0.111)
SHAPES: dict[str, Shape] = {
    "llava-1.5-7b": Shape(
        "llava-hf/llava-1.5-7b-hf", _OF_576, 336, _llava("7b"), "LlavaForConditionalGeneration"
    ),
    "llava-1.5-13b": Shape(
        "llava-hf/llava-1.5-13b-hf", _OF_576, 336, _llava("13b"), "LlavaForConditionalGeneration"
    ),
    "llava-next-7b": Shape(
        "llava-hf/llava-v1.6-vicuna-7b-hf",
        _OF_2880,
        672,
        _llava_next,
        "LlavaNextForConditionalGeneration",
    ),
    "qwen2.5-vl-7b": Shape(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        _SHARES,
        1008,
        _qwen("7b"),
        "Qwen2_5_VLForConditionalGeneration",
    ),
    "qwen2.5-vl-3b": Shape(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        _SHARES,
        1008,
        _qwen("3b"),
        "Qwen2_5_VLForConditionalGeneration",
    ),
}
"""Shapes by name. Qwen's tower has no fixed count; its budgets are the ratios of LLaVA-1.5's."""


def shape(name: str) -> Shape:
    """Return the shape of a name.

    Raises:
        StudyError: An unknown name; near names are suggested.
    """
    if name not in SHAPES:
        raise StudyError(f"--shape: {name!r} is unknown. {near_names(name, SHAPES)}")
    return SHAPES[name]
