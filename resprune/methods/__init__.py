"""Methods: ways to choose the kept tokens, one file each, each joining the registry itself.

To add one, write a file with a class under ``@register``; files in this folder whose names do not
start with an underscore are found by themselves, so are those in ``layers`` (methods inside the
LLM), and installed packages that name theirs in the entry-point group ``resprune.methods``.
"""

from __future__ import annotations

import importlib
import pkgutil

from resprune.methods.base import (
    ATTENTION,
    Batch,
    Inputs,
    Method,
    Nested,
    Selection,
    budget_of,
    get,
    names,
    needed,
    per_prompt_options,
    register,
)

__all__ = [
    "ATTENTION",
    "Batch",
    "Inputs",
    "Method",
    "Nested",
    "Selection",
    "budget_of",
    "get",
    "names",
    "needed",
    "per_prompt_options",
    "register",
]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
