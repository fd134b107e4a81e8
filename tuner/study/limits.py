"""What a study file may hold, checked before it is parsed: parsing is where it would cost.

A study file may come from anyone. Python's TOML reader takes time and memory that grow with the
square of a dotted key's parts, recurses into brackets, and turns endless digits into a ValueError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from resprune.errors import StudyError
from resprune.validation import key_path
from tuner.problems import all_of

MAX_BYTES = 2**17
MAX_LINE = 2**14
MAX_DEPTH = 8  # brackets and parts of a key alike; a study has four
MAX_WORD = 100  # characters of a number, or of a key without quotes
MAX_TEXT = 10_000
_MAX_INT = 2**63  # what TOML asks of its readers

_BASIC, _LITERAL = r'(?!""")"(?:[^"\\\n]|\\[^\n])*+"', r"(?!''')'[^'\n]*+'"
_WORD = r"""[^\s"'#\[\]{}=,.]++"""
_PART = f"(?:{_BASIC}|{_LITERAL}|{_WORD})"
_TOKEN = re.compile(
    r'(?P<multi>"""(?:[^"\\]|\\.|"(?!""))*+"{3,5}' + r"|'''(?:[^']|'(?!''))*+'{3,5}|#[^\n]*+)"
    rf"|(?P<key>{_PART}(?:[ \t]*+\.[ \t]*+{_PART})*+)"
    r"""|(?P<open>[\[{])|(?P<close>[\]}])|(?P<torn>["'])""",
    re.DOTALL,
)
_PARTS = re.compile(_PART)


def check_text(text: str, where: str) -> None:
    """Check the text of a TOML file.

    What it takes to be a string or a key, TOML's own reader takes for one too or refuses.

    Args:
        text: All of it.
        where: Name of the file, for messages.

    Raises:
        StudyError: A NUL, a line, a number, a key or a nesting beyond the limits; names the line.
    """
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise StudyError(f"{where}: line {line}: holds a NUL character; remove it")
    for number, row in enumerate(text.split("\n"), 1):
        if len(row) > MAX_LINE:
            raise StudyError(
                f"{where}: line {number}: {len(row):,} characters, more than the {MAX_LINE:,} that "
                "a line of a study has; break it"
            )
    depth = 0
    for token in _TOKEN.finditer(text):
        kind, problem = token.lastgroup, ""
        if kind == "open":
            depth += 1
            if depth > MAX_DEPTH:
                problem = f"brackets nested more than {MAX_DEPTH} deep"
        elif kind == "close":
            depth = max(0, depth - 1)
        elif kind == "key":
            problem = _problem_of(token[0])
        elif kind == "torn":  # a string without an end, which the reader refuses
            return
        if problem:
            line = text.count("\n", 0, token.start()) + 1
            raise StudyError(f"{where}: line {line}: {problem}; no study has such")


def _problem_of(key: str) -> str:
    """Say what is wrong with a key or a value without brackets; empty where nothing is."""
    if len(key) <= MAX_WORD and key.count(".") < MAX_DEPTH:
        return ""
    parts = _PARTS.findall(key)
    if len(parts) > MAX_DEPTH:
        return f"a dotted key of {len(parts):,} parts, more than {MAX_DEPTH}"
    longest = max((len(part) for part in parts if part[0] not in "\"'"), default=0)
    if longest <= MAX_WORD:
        return ""
    what = "number" if key[0] in "+-0123456789" else "name"
    return f"a {what} of {longest:,} characters, more than {MAX_WORD}"


def check_values(data: Mapping[str, Any], where: str) -> None:
    """Check what was read: its texts, its numbers, and how deep it is.

    Args:
        data: What TOML's reader gave.
        where: Name of the file, for messages.

    Raises:
        StudyError: Values beyond the limits, all of them named.
    """
    problems: list[str] = []
    waiting: list[tuple[tuple[int | str, ...], Any]] = [((), data)]
    while waiting:
        place, value = waiting.pop()
        problem = _wrong(value, len(place))
        if problem:
            problems.append(f"{where}: {key_path(place)[:MAX_WORD]!r}: {problem}")
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                wrong = "\0" in key or len(key) > MAX_WORD
                if wrong:
                    name = f"{key_path(place)[:MAX_WORD]!r}: key {key[:40]!r}"
                    problems.append(f"{where}: {name} has a NUL or over {MAX_WORD} characters")
                else:
                    waiting.append(((*place, key), inner))
        elif isinstance(value, list):
            waiting += [((*place, i), inner) for i, inner in enumerate(value)]
    if problems:
        raise StudyError(all_of(problems[::-1], "values"))


def _wrong(value: Any, depth: int) -> str:
    if depth > MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} deep"
    if isinstance(value, str):
        if "\0" in value:
            return "holds a NUL character; remove it"
        if len(value) > MAX_TEXT:
            return f"has {len(value):,} characters, more than {MAX_TEXT:,}; shorten it"
    elif isinstance(value, int):
        if not -_MAX_INT <= value < _MAX_INT:
            return "a whole number of more than 64 bits"
    elif isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no finite number"
    return ""
