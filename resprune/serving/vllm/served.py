"""The classes that vLLM is told of.

Each is made when vLLM asks for it. Where this vLLM is not as this package knows it, vLLM's own
class comes back in its place, so that models without a pruning config are served as ever; one with
a config is refused at start (``guard``).
"""

from __future__ import annotations

import importlib
from typing import Any

from resprune.serving.vllm.families import FAMILIES


def __getattr__(name: str) -> Any:
    if name not in FAMILIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    family = FAMILIES[name]
    module, target = family.target.split(":")
    try:
        return getattr(importlib.import_module(module), target)
    except (ImportError, AttributeError, TypeError):
        return getattr(importlib.import_module(family.own), name)
