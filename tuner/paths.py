"""Folders and files that a study names: found from the study file, wherever the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

_MAX_PART, _MAX_PATH = 255, 4000  # bytes that file systems take


def _a_name(value: str) -> str:
    """Refuse what the system would refuse later, in a message without a place."""
    parts = value.encode("utf-8", "replace").split(b"/")
    if "\0" in value or len(value) > _MAX_PATH or max(map(len, parts)) > _MAX_PART:
        raise ValueError(f"{value[:80]!r} is no name of a file or folder")
    return value


def _below(value: str) -> str:
    """Refuse a name that leads out of the folder it is looked up in."""
    if value.startswith(("/", "\\")) or ".." in value.replace("\\", "/").split("/"):
        raise ValueError(f"{value[:80]!r} leads out of the folder; give a name inside it")
    return value


def _from_the_file(value: str, info: ValidationInfo) -> str:
    base: Path | None = (info.context or {}).get("base")
    if base is None:
        return value
    path = base / value
    try:
        return str(path.resolve()) if path.exists() or value.startswith(".") else value
    except (OSError, ValueError):  # too long a name, or one with a NUL
        raise ValueError(f"{value[:80]!r} is no name of a file or folder") from None


PathName = Annotated[str, AfterValidator(_a_name)]
"""A folder or file, relative to where the command runs."""
NameBelow = Annotated[PathName, AfterValidator(_below)]
"""A name that is looked up in a folder, and stays within it."""
FolderName = Annotated[PathName, AfterValidator(_from_the_file)]
"""A folder or file, or a name of another kind; relative to ``base`` of the validation context."""
