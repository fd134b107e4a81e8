"""Folders that a study names: found from the study file, wherever the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo


def _from_the_file(value: str, info: ValidationInfo) -> str:
    base: Path | None = (info.context or {}).get("base")
    if base is None:
        return value
    folder = base / value
    return str(folder.resolve()) if folder.is_dir() or value.startswith(".") else value


FolderName = Annotated[str, AfterValidator(_from_the_file)]
"""A folder, or a name of another kind; relative to ``base`` of the validation context."""
