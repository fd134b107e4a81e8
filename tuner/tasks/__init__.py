"""Tasks: samples by split and a scorer, one file each.

To add one, write a class that satisfies ``Task`` and name it in ``_HOME``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from resprune.errors import StudyError, near_names
from tuner.tasks.base import Sample, Task, exact_match, normalized

if TYPE_CHECKING:
    from tuner.study import TaskSection

__all__ = ["Sample", "Task", "exact_match", "get", "is_local", "make", "names", "normalized"]

_HOME = {
    "hub-vqa": ("tuner.tasks.hub_vqa", "HubVqa"),
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


_OWN_KEYS = {
    "jsonl": ("folder",),
    "hub-vqa": ("dataset", "config", "revision", "columns", "scorer", "question_transform"),
}


def make(section: TaskSection) -> Task:
    """Return the task that a study names, with the study's options.

    Raises:
        StudyError: An option that another task takes, or a wrong one.
    """
    options: dict[str, Any] = {
        "answer_format": section.answer_format,
        "max_new_tokens": section.max_new_tokens,
    }
    for task, keys in _OWN_KEYS.items():
        for key in keys:
            value = getattr(section, key)
            if value is not None and task != section.name:
                raise StudyError(f"task.{key} is of no use to the task {section.name!r}; remove it")
            if value is not None:
                options[key] = value
    if section.columns is not None:
        options["columns"] = section.columns.model_dump(exclude_none=True)
    if section.name in _OWN_KEYS:
        options["labels"] = section.metric != "fidelity"
    return get(section.name, **options)


def is_local(section: TaskSection) -> bool:
    """Say whether the samples that a study names need no hub."""
    return section.dataset is None or Path(section.dataset).is_dir()
