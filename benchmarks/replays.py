"""Many replays, one JSON line each, resumable: what the programs on a table have in common."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_EVERY = 30.0  # seconds between lines of progress


def logged(log: Path) -> list[dict[str, Any]]:
    """Read the replays of a log; a last line that an interruption cut short is left out."""
    if not log.is_file():
        return []
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def replays(log: Path, count: int, replay: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the replays that a log lacks, and return all of it.

    Args:
        log: One JSON line a replay.
        count: How many replays there should be, numbered from 0.
        replay: Number -> what happened, plain data; the number seeds all that is random.

    Returns:
        The replays in order of their numbers.
    """
    found = {each["number"]: each for each in logged(log)}
    missing = [number for number in range(count) if number not in found]
    log.parent.mkdir(parents=True, exist_ok=True)
    whole = b"".join(json.dumps(each).encode() + b"\n" for each in found.values())
    if log.is_file() and log.read_bytes() != whole:
        log.write_bytes(whole)  # without the torn line
    with log.open("a", encoding="utf-8") as file:
        for number in _told(missing, count):
            line = json.dumps({"number": number, **replay(number)})
            found[number] = json.loads(line)  # as a resumed run would read it
            file.write(f"{line}\n")
            file.flush()
    return [found[number] for number in range(count)]


def _told(missing: list[int], count: int) -> Iterator[int]:
    begin = last = time.monotonic()
    for done, number in enumerate(missing):
        yield number
        if time.monotonic() - last > _EVERY or done + 1 == len(missing):
            last = time.monotonic()
            left = (last - begin) / (done + 1) * (len(missing) - done - 1)
            print(f"{count - len(missing) + done + 1} of {count}, {left:.0f} s left", flush=True)
