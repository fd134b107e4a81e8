"""Qwen2-VL: dynamic resolution, full attention in every block, M-RoPE."""

from __future__ import annotations

from resprune.backbones._qwen import QwenBackbone
from resprune.backbones.base import register


@register
class Qwen2VLBackbone(QwenBackbone):
    """Qwen2-VL, such as ``Qwen/Qwen2-VL-7B-Instruct``."""

    family = "qwen2_vl"
    model_types = ("qwen2_vl",)
    transformers_classes = ("Qwen2VLForConditionalGeneration",)
