"""Writing what a command found into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resprune.errors import StudyError
from resprune.files import write_json, write_text


def write_all(folder: Path, files: Mapping[str, Any]) -> list[Path]:
    """Write texts, and other data as JSON, each beside and renamed.

    Args:
        folder: Where; made if it does not exist.
        files: What, by name.

    Returns:
        Their paths.

    Raises:
        StudyError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (write_text if isinstance(content, str) else write_json)(folder / name, content)
    except OSError as error:
        raise StudyError(f"{folder}: cannot be written ({error.strerror})") from error
    return [folder / name for name in files]
