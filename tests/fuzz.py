"""Feeds thousands of bad configs, studies, data files and images to what reads them.

    python -m tests.fuzz --cases 10000 --seed 0     a few minutes
    python -m tests.fuzz --seed 0 --only 4711       one case again, with its traceback

Each case puts a fault or two into something good (``tests.fuzzing``), mostly so small that what
comes out is nearly valid. It has to be read, or refused by a ``ResPruneError`` whose message names
the file or the key, within a time and a memory. Anything else is a failure. A case depends on the
seed and its own number alone.

Exit codes: 0 no failure, 1 some, which are printed with their numbers.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from resprune.errors import ResPruneError
from tests.fuzzing.kinds import KINDS
from tuner import imagefile

SECONDS = 5.0
HANGS = 30  # seconds after which a case is broken off
MEBIBYTES = 300  # above what was in use after every kind was read once
LONGEST_MESSAGE = 20_000
_PIXELS = 2**22  # memory grows with the largest image opened, so both are held small here
_WARM_UP = 24
_CLEARED = 200  # cases after which what ``datasets`` keeps is removed


class Hang(BaseException):
    """A case that does not end; no handler of errors may take it for one of its own."""


@dataclass
class Report:
    """What became of the cases.

    Attributes:
        outcomes: How many by kind and ``read`` or ``refused``.
        failures: Number, kind and what was wrong.
        seconds: In all.
        slowest: The longest case, and its number.
        grown: MiB above the baseline at the worst.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, -1)
    grown: float = 0.0


def kind_of(seed: int, number: int) -> tuple[random.Random, str]:
    """Return what draws a case, and its kind."""
    rng = random.Random(f"{seed} {number}")
    return rng, rng.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]


def run_case(seed: int, number: int, folder: Path) -> tuple[str, str]:
    """Run one case in an empty folder.

    Returns:
        ``read``, ``refused`` or ``failed``, and what was said.
    """
    rng, kind = kind_of(seed, number)
    read = KINDS[kind][0](rng, folder)
    start = time.perf_counter()
    try:
        with _alarm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
        outcome, said = "read", ""
    except ResPruneError as error:
        outcome, said = "refused", str(error)
        if str(folder) not in said and "task" not in said:
            outcome, said = "failed", f"names no file: {said}"
        elif len(said) > LONGEST_MESSAGE:
            outcome, said = "failed", f"a message of {len(said):,} characters: {said[:300]}"
    except Hang:
        return "failed", f"broken off after {HANGS} s"
    except Exception:
        return "failed", traceback.format_exc()
    seconds = time.perf_counter() - start
    if seconds > SECONDS:
        return "failed", f"took {seconds:.1f} s; {outcome}: {said[:300]}"
    return outcome, said


def run(
    seed: int, numbers: Iterable[int], told: Callable[[int, str], None] = lambda *_: None
) -> Report:
    """Run cases.

    Args:
        seed: Of all of them.
        numbers: Which.
        told: Called with the number and what was wrong of each that failed.
    """
    found = Report()
    start = time.perf_counter()
    with _aside() as (base, cache):
        folder = base / "case"
        for number in range(-_WARM_UP, 0):
            _fresh(folder)
            run_case(seed, number, folder)
        baseline = allowed = _peak()
        for done, number in enumerate(numbers):
            _fresh(folder)
            if done % _CLEARED == 0:
                shutil.rmtree(cache, ignore_errors=True)
            began = time.perf_counter()
            kind = kind_of(seed, number)[1]
            outcome, said = run_case(seed, number, folder)
            found.slowest = max(found.slowest, (time.perf_counter() - began, number))
            found.grown = max(found.grown, _peak() - baseline)
            if outcome != "failed" and _peak() > allowed + MEBIBYTES:
                allowed = _peak()  # the next one is not to be blamed for it
                outcome, said = "failed", f"memory grew by {found.grown:.0f} MiB"
            if outcome == "failed":
                found.failures.append((number, kind, said))
                told(number, f"{kind}: {said}")
            else:
                found.outcomes[kind, outcome] += 1
    found.seconds = time.perf_counter() - start
    return found


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


@contextmanager
def _aside() -> Iterator[tuple[Path, Path]]:
    """A temporary folder; libraries keep their files there, say nothing, and images are small."""
    import datasets

    config, pixels = datasets.config, imagefile.MAX_PIXELS
    cache, verbosity = config.HF_DATASETS_CACHE, datasets.logging.get_verbosity()
    with tempfile.TemporaryDirectory() as base:
        config.HF_DATASETS_CACHE = Path(base) / "cache"
        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)
        imagefile.MAX_PIXELS = _PIXELS
        try:
            yield Path(base).resolve(), config.HF_DATASETS_CACHE
        finally:
            config.HF_DATASETS_CACHE, imagefile.MAX_PIXELS = cache, pixels
            datasets.enable_progress_bars()
            datasets.logging.set_verbosity(verbosity)


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(_: int, __: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _peak() -> float:
    """The most memory that this process has had, MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run cases and print what became of them; return the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, action="append", help="a case; may be given again")
    given = parser.parse_args(arguments)
    numbers = given.only or range(given.cases)

    def told(number: int, said: str) -> None:
        print(f"--seed {given.seed} --only {number}: {said}\n", file=sys.stderr, flush=True)

    found = run(given.seed, numbers, told)
    print(f"{'kind':10} {'read':>7} {'refused':>8} {'failed':>7}")
    failed = Counter(kind for _, kind, _ in found.failures)
    for kind in KINDS:
        read, refused = (found.outcomes[kind, outcome] for outcome in ("read", "refused"))
        print(f"{kind:10} {read:7,} {refused:8,} {failed[kind]:7,}")
    print(
        f"{len(numbers):,} cases in {found.seconds:.0f} s, the slowest {found.slowest[0]:.1f} s "
        f"(case {found.slowest[1]}); memory grew by {found.grown:.0f} MiB; "
        f"{len(found.failures)} failures"
    )
    return int(bool(found.failures))


if __name__ == "__main__":
    sys.exit(main())
