"""Tiny models of six decoder layers, of every family."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from PIL import Image

from resprune.testing.case import Case
from resprune.testing.tiny import enlarge_weights, tiny_llava, tiny_qwen, tiny_tiled

DEPTH = 6
SLIDING, FULL = "sliding_attention", "full_attention"


@functools.cache
def deep_case(family: str, attention: str = "sdpa", depth: int = DEPTH, window: int = 512) -> Case:
    """A tiny random model with more layers, and images of several sizes."""
    if family == "llava":
        small, processor = tiny_llava(image_size=42)
    elif family.startswith("qwen"):
        small, processor = tiny_qwen(family)
    else:
        small, processor = tiny_tiled(family)
    config = small.config.to_dict()
    text = config["text_config"]
    text.pop("layer_types", None)
    text["num_hidden_layers"] = depth
    if family == "gemma3":  # its first full layer, whose length sizes the mask, is behind a drop
        kinds = [SLIDING] * 4 + [FULL, SLIDING]
        text |= {"layer_types": kinds, "sliding_window": window}
    torch.manual_seed(0)
    model = type(small)(type(small.config)(**config)).eval()
    enlarge_weights(model, 0.2)
    model.generation_config = small.generation_config
    model.get_decoder().set_attn_implementation(attention)
    draw = torch.Generator().manual_seed(3)
    sizes = [(50, 60), (40, 30), (64, 64), (30, 90)]
    pixels = [torch.randint(0, 255, (*s, 3), dtype=torch.uint8, generator=draw) for s in sizes]
    return Case(model, processor, [Image.fromarray(p.numpy()) for p in pixels])


@pytest.fixture(scope="session")
def deep() -> Any:
    """Makes a case of six layers; see ``deep_case``."""
    return deep_case
