"""Small faults put into good data, text and bytes, so that what comes out is nearly valid."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any


def nested(depth: int) -> Any:
    """A list within a list."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


WEIRD: tuple[Any, ...] = (
    None, True, 0, -1, -0.0, 0.5, 1e308, 2**31, 2**63, 10**18, 10**30, 10**4000, math.nan, math.inf,
    "", " ", "\0", "a\0b", "\ud800", "x" * 3000, "x" * 30_000, "a/" * 2500, "/etc/passwd",
    "../../x.png", "..", "C:\\x", "مرحبا بالعالم", "שלום", "日本語", "\u202eabc\u202c", "e\u0301",
    "1e400", "(", "(a+)+$", "[1, 2]", "nan", [], {}, [[]], [None], [1, "a", None], {"a": {}},
    {"": 1}, {"bytes": "x", "path": 3}, {"path": "../x", "bytes": None}, [{"answer": 3}],
    nested(20), nested(300), {"answer": "a"}, ["a"] * 50, "A", "yes",
)  # fmt: skip
TEXTS = ("note", "q?", "a cat", "نعم", "ok 👍")


def places(data: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of nested data."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*here, key)
        if isinstance(value, dict | list):
            yield from places(value, (*here, key))


def _typo(rng: random.Random, name: str) -> str:
    at = rng.randrange(len(name) + 1)
    return rng.choice([name[:at] + name[at + 1 :], name[:at] + "x" + name[at:], name.upper()])


def _number(rng: random.Random, value: Any) -> Any:
    change: list[Callable[[Any], Any]] = [
        lambda v: -v, lambda v: v * 1000, lambda v: v + 1, float, str, lambda v: v / 3,
    ]  # fmt: skip
    return rng.choice(change)(value)


def data(rng: random.Random, good: Any, times: int | None = None) -> Any:
    """Return a copy of nested data with one or two faults in it, sometimes none."""
    found = copy.deepcopy(good)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 3)) if times is None else times):
        everywhere = list(places(found))
        if not everywhere:
            break
        *way, key = rng.choice(everywhere)
        table = found
        for part in way:
            table = table[part]
        value = table[key]
        kind = rng.choice(("drop", "rename", "weird", "weird", "weird", "near", "near", "more"))
        if kind == "drop":
            del table[key]
        elif kind == "rename" and isinstance(table, dict):
            table[_typo(rng, str(key))] = table.pop(key)
        elif kind == "more":
            if isinstance(value, list):
                value.append(copy.deepcopy(rng.choice([*value, 3])))
            elif isinstance(table, dict):
                table[rng.choice(("extra", "id", "مفتاح", "x" * 300))] = rng.choice(WEIRD)
        elif kind == "near" and isinstance(value, int | float) and not isinstance(value, bool):
            table[key] = _number(rng, value)
        elif kind == "near" and isinstance(value, str):
            table[key] = rng.choice((_typo(rng, value), value + "\n", *TEXTS))
        else:
            table[key] = copy.deepcopy(rng.choice(WEIRD))
    return found


def raw(rng: random.Random, good: bytes) -> bytes:
    """Return bytes cut short, with flipped, lost or added ones."""
    kind = rng.choice(("cut", "flip", "flip", "lose", "add", "zero", "empty", "double"))
    if kind == "empty" or not good:
        return rng.choice((b"", b"\0" * 64, b"\xff\xfe", good[:1]))
    at = rng.randrange(len(good))
    if kind == "cut":
        return good[:at]
    if kind == "double":
        return good + good
    if kind == "flip":
        found = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            found[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        return bytes(found)
    length = rng.choice((1, 2, 16))
    if kind == "zero":
        return good[:at] + b"\0" * length + good[at + length :]
    return good[:at] + (rng.randbytes(length) if kind == "add" else b"") + good[at + length :]


def json_text(rng: random.Random, good: Any) -> bytes:
    """Write JSON, now and then with a fault that is one of the text."""
    text = json.dumps(good, ensure_ascii=rng.random() < 0.7)
    kind = rng.choice(
        ("", "", "", "", "raw", "number", "deep", "many", "twice", "bom", "utf-16", "swap")
    )
    if kind == "number":
        word = rng.choice(("1" * 5000, "1e999", "NaN", "-Infinity", "0x10", "1_0", "-0", "1" * 30))
        text = text.replace(": ", f": {word}, ", 1) if rng.random() < 0.2 else text.replace(
            rng.choice(("1", "0", "2")), word, 1)  # fmt: skip
    elif kind == "deep":
        depth = rng.choice((30, 300, 900, 50_000))
        text = text.replace("}", f', "d": {"[" * depth}{"]" * depth}}}', 1)
    elif kind == "many":  # each a fault of its own
        text = text.replace("[", "[" + rng.choice(("{},", "3,", '"x",', "[],")) * 20_000, 1)
    elif kind == "twice":
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    elif kind == "swap":
        text = text.replace(rng.choice('{}[],:"'), rng.choice('{}[],:"\0'), 1)
    encoded = text.encode("utf-16" if kind == "utf-16" else "utf-8", "surrogatepass")
    if kind == "bom":
        return b"\xef\xbb\xbf" + encoded
    return raw(rng, encoded) if kind == "raw" else encoded


def toml_text(rng: random.Random, good: str) -> bytes:
    """Put a fault into TOML, or none."""
    lines = good.split("\n")
    at = rng.randrange(len(lines) + 1)
    n = rng.choice((5, 50, 3000))
    added = rng.choice((
        ".".join("a" * n) + " = 1", "[" + ".".join("ab" * n) + "]", f"x = {'[' * n}{']' * n}",
        f"x = {'{a = ' * n}1{'}' * n}", f"x = {'1' * 5000}", f"x = 0x{'f' * n}", "x = 1e400",
        "x = nan", 'x = "\\u0000"', "x = '\0'", f"x = '{'y' * n * 10}'", f'x = """{"y" * n}',
        "x = 1979-05-27", "x = 0000-00-00", "[study]", "[[task]]", "[task.tune]", 'name = "twice"',
        "study.name = 'x'", 'x = "\\ud800"', "\u202e = 1", "# comment مرحبا", "", "", "",
        "\n".join(f"[h{i}.a.b.c]" for i in range(n)), "x = [" + "1, " * n + "]",
    ))  # fmt: skip
    kind = rng.choice(("none", "none", "add", "add", "add", "drop", "copy", "raw", "encode"))
    if kind == "add":
        lines.insert(at, added)
    elif kind == "drop":
        del lines[at - 1 : at]
    elif kind == "copy":
        lines.insert(at, rng.choice(lines))
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    if kind == "encode":
        return "\n".join(lines).encode(rng.choice(("utf-16", "utf-8-sig")), "surrogatepass")
    return raw(rng, text) if kind == "raw" else text
