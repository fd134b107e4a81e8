"""Tiny random models with real processors, made offline in a fraction of a second."""

from __future__ import annotations

from resprune.testing.tiny.llava import tiny_llava, tiny_llava_processor, tiny_tokenizer
from resprune.testing.tiny.parts import byte_level_bpe, enlarge_weights
from resprune.testing.tiny.qwen import tiny_qwen, tiny_qwen_processor, tiny_qwen_tokenizer
from resprune.testing.tiny.tiled import tiled_processor, tiled_tokenizer, tiny_tiled

__all__ = [
    "byte_level_bpe",
    "enlarge_weights",
    "tiled_processor",
    "tiled_tokenizer",
    "tiny_llava",
    "tiny_llava_processor",
    "tiny_qwen",
    "tiny_qwen_processor",
    "tiny_qwen_tokenizer",
    "tiny_tiled",
    "tiny_tokenizer",
]
