"""Small JSON files: reading one that may come from anyone, writing one that is never half-there."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from resprune.errors import ConfigError
from resprune.files.atomic import written_beside

MAX_FILE_BYTES = 16 * 2**20  # a config is a few kB; refuse to parse something else
MAX_DEPTH = 64  # far below what recursion bears, here and where the data goes
_MAX_DIGITS = 20  # sign and all, of 64 bits
_SHOWN = 80
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def read_json(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> Any:
    """Read a JSON file that may come from anyone.

    A byte-order mark is accepted, since some editors add one. ``NaN`` and ``Infinity``
    (which are not JSON), numbers too large for a float, and repeated keys (of which all but one
    would be lost) are not, nor is what nests more than ``MAX_DEPTH`` deep.

    Args:
        path: The file.
        max_bytes: Refuse more than this.

    Returns:
        The data.

    Raises:
        ConfigError: Unreadable, too large, not UTF-8 or not JSON; names the file and place.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(raw) > max_bytes:
        raise ConfigError(f"{path}: larger than {max_bytes:,} bytes; this is another kind of file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8 or write it again"
        ) from error
    if _too_deep(text):
        raise ConfigError(f"{path}: nested too deeply; this is another kind of file")
    try:
        return json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short,
            object_pairs_hook=_unique_keys,
        )
    except json.JSONDecodeError as error:
        torn = "it ends too early" if error.pos >= len(text.rstrip()) else error.msg
        raise ConfigError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({torn}); "
            "mend it or write it again"
        ) from error
    except ValueError as error:  # ours below
        raise ConfigError(f"{path}: {error}") from error


def write_json(path: Path, data: Any) -> None:
    """Write one JSON file; see `write_json_files`."""
    write_json_files({path: data})


def write_json_files(files: dict[Path, Any]) -> None:
    """Write JSON files beside their places, then rename them all.

    What goes wrong (a full disk, a value that is not JSON) goes wrong before the first
    rename, so the old files stay as they were.

    Args:
        files: Data by path; renamed in this order.

    Raises:
        OSError: A file cannot be written.
        ValueError: A number is NaN or infinite.
    """
    with ExitStack() as stack:
        for path, data in reversed(files.items()):  # the stack renames the last one first
            beside = stack.enter_context(written_beside(path))
            text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
            beside.write_text(text + "\n", encoding="utf-8")


def _too_deep(text: str) -> bool:
    """Say whether brackets outside of strings nest more than ``MAX_DEPTH`` deep."""
    depth = 0
    for token in _BRACKETS.finditer(text):
        if token[0] in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif token[0] in ("]", "}"):
            depth -= 1
    return False


def _short(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text):,} digits; write one of at most 19")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:_SHOWN]} is too large a number; write a finite one")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; write a finite one")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        times = Counter(name for name, _ in pairs)
        repeated = next(name for name, count in times.items() if count > 1)
        raise ValueError(f"key {repeated[:_SHOWN]!r} is given twice in one object; keep one")
    return data
