"""Folders and files that a study names: found from the study file, wherever the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo


def _from_the_file(value: str, info: ValidationInfo) -> str:
    base: Path | None = (info.context or {}).get("base")
    if base is None:
        return value
    path = base / value
    try:
        return str(path.resolve()) if path.exists() or value.startswith(".") else value
    except (OSError, ValueError):  # too long a name, or one with a NUL
        raise ValueError(f"{value[:80]!r} is no name of a file or folder") from None


FolderName = Annotated[str, AfterValidator(_from_the_file)]
"""A folder or file, or a name of another kind; relative to ``base`` of the validation context."""
