"""ResPrune: training-free visual token pruning for unmodified Hugging Face models.

Public names are loaded on first use, so ``import resprune`` costs nothing and changes
nothing in transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from resprune.version import __version__

if TYPE_CHECKING:
    from resprune import backbones, methods
    from resprune.attachment import Attachment, attach
    from resprune.config import PruningConfig
    from resprune.errors import ResPruneError
    from resprune.nouns import NounExtractor
    from resprune.relevance import relevance_scores
    from resprune.subspace import greedy_order, greedy_order_batch

_HOME = {
    "Attachment": "resprune.attachment",
    "NounExtractor": "resprune.nouns",
    "PruningConfig": "resprune.config",
    "ResPruneError": "resprune.errors",
    "attach": "resprune.attachment",
    "greedy_order": "resprune.subspace",
    "greedy_order_batch": "resprune.subspace",
    "relevance_scores": "resprune.relevance",
}
_MODULES = ("backbones", "methods")

__all__ = [
    "Attachment",
    "NounExtractor",
    "PruningConfig",
    "ResPruneError",
    "__version__",
    "attach",
    "backbones",
    "greedy_order",
    "greedy_order_batch",
    "methods",
    "relevance_scores",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"resprune.{name}")
    raise AttributeError(f"module 'resprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
