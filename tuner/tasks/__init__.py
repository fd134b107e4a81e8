"""Tasks: samples by split and a scorer, one file each.

To add one, write a class that satisfies ``Task`` and name it in ``_HOME``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

from resprune.errors import StudyError, near_names
from tuner.tasks.base import Sample, Task, exact_match, normalized

if TYPE_CHECKING:
    from tuner.study import TaskSection

__all__ = ["Sample", "Task", "exact_match", "get", "make", "names", "normalized"]

_HOME = {
    "jsonl": ("tuner.tasks.jsonl", "JsonLines"),
    "nano-scenes": ("tuner.tasks.nano_scenes", "NanoScenes"),
    "nano-scenes-wide": ("tuner.tasks.nano_scenes", "NanoScenesWide"),
}


def names() -> list[str]:
    """Return the names of every task, sorted."""
    return sorted(_HOME)


def get(name: str, **options: Any) -> Task:
    """Return a task.

    Args:
        name: One of ``names()``.
        **options: What the task's constructor takes.

    Returns:
        The task.

    Raises:
        StudyError: An unknown name or option; near names are suggested.
    """
    if name not in _HOME:
        raise StudyError(f"unknown task {name!r}. {near_names(name, _HOME)}")
    module, cls = _HOME[name]
    try:
        return cast(Task, getattr(importlib.import_module(module), cls)(**options))
    except TypeError as error:
        raise StudyError(f"task {name!r}: {error}; see `resprune-tune ls tasks`") from None


def make(section: TaskSection) -> Task:
    """Return the task that a study names, with the study's options."""
    options: dict[str, Any] = {
        "answer_format": section.answer_format,
        "max_new_tokens": section.max_new_tokens,
    }
    if section.name == "jsonl":
        options |= {"folder": section.folder, "labels": section.metric != "fidelity"}
    elif section.folder is not None:
        raise StudyError(f"task.folder is of no use to the task {section.name!r}; remove it")
    return get(section.name, **options)
