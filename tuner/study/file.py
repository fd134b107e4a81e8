"""The study file: found, read, written."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from resprune.errors import StudyError, near_names
from resprune.validation import explain
from tuner.study.limits import MAX_BYTES, check_text, check_values
from tuner.study.schema import StudyConfig, schema_for

STUDY_FILE = "study.toml"
_SHOWN = 300  # characters of a wrong name that a message repeats


def study_names() -> list[str]:
    """Return the names of the shipped studies."""
    files = resources.files("studies").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def find_study(name_or_path: str) -> Path:
    """Find a study file.

    Args:
        name_or_path: Path of a TOML file, or the name of a shipped study.

    Returns:
        Its path.

    Raises:
        StudyError: There is none; near names are suggested.
    """
    path = Path(name_or_path)
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):  # too long a name, or one with a NUL
        pass
    if name_or_path not in study_names():
        name = name_or_path if len(name_or_path) <= _SHOWN else f"{name_or_path[:_SHOWN]}…"
        raise StudyError(
            f"{name}: no such file, and no shipped study is called so. "
            f"{near_names(name, study_names())}"
        )
    return Path(str(resources.files("studies") / f"{name_or_path}.toml"))


def load_study(path: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> StudyConfig:
    """Read and validate a study file.

    Args:
        path: A TOML file.
        overrides: Values by section and key that take the place of the file's (the command
            line's).

    Returns:
        The study; relative folders of it are resolved against the file.

    Raises:
        StudyError: Unreadable, not TOML, or wrong; the message names the file, key and fix.
    """
    data = read_toml(path)
    return study_from_dict(data, where=str(path), base=path.parent, overrides=overrides)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file that may come from anyone; a byte-order mark is accepted.

    Raises:
        StudyError: Unreadable, not TOML, or beyond the limits of ``tuner.study.limits``.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror})") from error
    if len(raw) > MAX_BYTES:
        raise StudyError(f"{path}: larger than {MAX_BYTES:,} bytes; not a study file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: not valid TOML, saved as UTF-8: {error}") from None
    check_text(text, str(path))
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError, OverflowError) as error:  # not all are TOMLDecodeError
        raise StudyError(f"{path}: not valid TOML, saved as UTF-8: {error}") from None
    check_values(data, str(path))
    return data


def study_from_dict(
    data: Mapping[str, Any],
    *,
    where: str = "study",
    base: Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> StudyConfig:
    """Validate plain data; see ``load_study``."""
    merged = tuples(_merged(data, overrides or {}))
    schema = schema_for(merged)
    try:
        return schema.model_validate(merged, context={"base": base})
    except ValidationError as error:
        raise StudyError(f"{where}: {explain(error, schema)}") from None


def dump_study(study: StudyConfig) -> str:
    """Write a study as TOML that ``load_study`` reads back to the same study."""
    return (
        "# The study as it ran, with every default and command-line override filled in.\n\n"
        + tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))
    )


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def tuples(value: Any) -> Any:
    """Turn TOML's lists into tuples, which the strict models ask for."""
    if isinstance(value, Mapping):
        return {key: tuples(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(tuples(inner) for inner in value)
    return value
