"""What differs between the families of the embedded models: their prompts and their eyes."""

from __future__ import annotations

from typing import Any

from studies.nano.chat import Chat, llava_chat
from studies.nano.qwen_chat import qwen_chat
from studies.nano.qwen_vision import QwenVision
from studies.nano.vision import Vision

_QWEN = "qwen2_5_vl"


def chat_of(model: Any) -> Chat:
    """Return how the prompts of a model are laid out, by its type."""
    return qwen_chat() if model.config.model_type == _QWEN else llava_chat()


def vision_of(model: Any) -> Vision:
    """Return the eyes of a model, by its type."""
    return QwenVision(model) if model.config.model_type == _QWEN else Vision(model)
