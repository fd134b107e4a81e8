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
    from resprune.attaching.attachment import Attachment, attach
    from resprune.budget import Count, Energy, Ratio
    from resprune.config import PruningConfig
    from resprune.errors import ResPruneError
    from resprune.nouns import NounExtractor
    from resprune.plan import Plan
    from resprune.relevance import relevance_scores
    from resprune.setting import Adaptive, Setting
    from resprune.subspace import greedy_order, greedy_order_batch

_HOME = {
    "Adaptive": "resprune.setting",
    "Attachment": "resprune.attaching.attachment",
    "Count": "resprune.budget",
    "Energy": "resprune.budget",
    "NounExtractor": "resprune.nouns",
    "Plan": "resprune.plan",
    "PruningConfig": "resprune.config",
    "Ratio": "resprune.budget",
    "ResPruneError": "resprune.errors",
    "Setting": "resprune.setting",
    "attach": "resprune.attaching.attachment",
    "greedy_order": "resprune.subspace",
    "greedy_order_batch": "resprune.subspace",
    "relevance_scores": "resprune.relevance",
}
_MODULES = ("backbones", "methods")

__all__ = [
    "Adaptive",
    "Attachment",
    "Count",
    "Energy",
    "NounExtractor",
    "Plan",
    "PruningConfig",
    "Ratio",
    "ResPruneError",
    "Setting",
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
