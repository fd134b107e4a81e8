"""Methods inside the LLM, one file each, each joining the registry itself.

They drop visual tokens before some decoder layers, by what the model computes on the way there, so
what they keep is known only in the forward pass. Files in this folder whose names do not start with
an underscore are found by themselves.
"""

from __future__ import annotations

import importlib
import pkgutil

from resprune.methods.layers.base import Drop, LayerMethod, LayerView, scaled_layers

__all__ = ["Drop", "LayerMethod", "LayerView", "scaled_layers"]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
