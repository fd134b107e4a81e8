"""Backbones: one file a model family, chosen from the loaded model.

``for_model(model, processor)`` gives the adapter; ``names()`` lists the families.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from resprune.backbones._question import ChatMarkers, extract_question, learn_markers
from resprune.backbones._words import WordIds, WordVectors
from resprune.backbones.base import Backbone, VisualTokens, register, registered
from resprune.errors import UnsupportedModelError, near_names
from resprune.prepare import Prepared

__all__ = [
    "Backbone",
    "ChatMarkers",
    "Prepared",
    "VisualTokens",
    "WordIds",
    "WordVectors",
    "extract_question",
    "for_model",
    "get",
    "learn_markers",
    "names",
    "register",
]


def names() -> list[str]:
    """Return the supported families, sorted."""
    return list(registered())


def get(family: str) -> type[Backbone]:
    """Return the adapter class of a family.

    Args:
        family: One of ``names()``.

    Returns:
        The class.

    Raises:
        UnsupportedModelError: An unknown family; near names are suggested.
    """
    known = registered()
    if family not in known:
        raise UnsupportedModelError(
            f"unknown backbone family {family!r}. {near_names(str(family), known)}"
        )
    return known[family]


def for_model(model: Any, processor: Any) -> Backbone:
    """Choose the adapter for a loaded model.

    Args:
        model: A loaded model with its language-model head; a PEFT wrapper is looked through, and
            so is what ``torch.compile`` returns.
        processor: Its processor.

    Returns:
        The backbone.

    Raises:
        UnsupportedModelError: No adapter serves this model; the message lists the families and
            says how to add one.
    """
    inner = _unwrapped(model)
    for cls in registered().values():
        if cls.serves(inner):
            return cls(inner, processor)
    kind = getattr(getattr(inner, "config", None), "model_type", None)
    supported = "; ".join(
        f"{family} (model_type {', '.join(cls.model_types)})"
        for family, cls in registered().items()
    )
    raise UnsupportedModelError(
        f"no backbone serves {type(inner).__name__} (model_type {kind!r}). Supported: {supported}. "
        "Load the ...ForConditionalGeneration class of one of these, or write an adapter: "
        "subclass resprune.backbones.Backbone (family, model_types, encode, image_lengths), put "
        "@resprune.backbones.register on it, and run resprune.testing.backbones on it"
    )


def _unwrapped(model: Any) -> Any:
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model


for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
