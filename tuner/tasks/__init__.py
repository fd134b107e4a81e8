"""Tasks: samples by split and a scorer, one file each, each joining the registry itself.

To add one, write a file with a class under ``@register``, its keys of ``[task]`` in a subclass of
``TaskOptions``; files in this folder whose names do not start with an underscore are found by
themselves. They import what is heavy (``datasets``) where they use it. One method is enough:
``samples``.
"""

from __future__ import annotations

import importlib
import pkgutil

from tuner.tasks.base import Picture, Sample, Task, TaskOptions, find, get, make, names, register

__all__ = ["Picture", "Sample", "Task", "TaskOptions", "find", "get", "make", "names", "register"]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
