"""Breaks one line at a time and says whether a test notices.

    python -m tests.mutants                          every mutant, a quarter of an hour or more
    python -m tests.mutants --only relevance-floor   one; may be given again
    python -m tests.mutants --list                   their names, and why each matters

The mutants are listed in ``mutants.toml``: a line that a promise rests on, what it is changed to,
and the test that must fail then. They are tried on a copy of the tree in a temporary folder; the
checkout is never changed. First every named test has to pass on the copy as it is.

Exit codes: 0 every mutant was killed, 1 one is alive or its line is not there any more, 2 wrong
usage, or a test that fails without a mutant.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".toml")
LONGEST = 1800  # seconds; a mutant whose test never ends is noticed too
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs", "site", "build")


class MutantError(Exception):
    """A mutant that cannot be tried."""


@dataclass(frozen=True)
class Mutant:
    """One line changed.

    Attributes:
        name: What ``--only`` takes.
        file: The file, from the root of the tree.
        old: A piece of one line that occurs once in the file.
        new: What it is changed to.
        test: The test file, or ``file::test``, that must fail.
        why: What would break unseen.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    why: str

    def changed(self, root: Path) -> str:
        """Return the file of a tree with the change made.

        Raises:
            MutantError: The file is not there, or does not hold the old text exactly once.
        """
        try:
            text = (root / self.file).read_text(encoding="utf-8")
        except OSError as error:
            raise MutantError(f"{self.name}: {self.file}: {error.strerror}") from None
        found = text.count(self.old)
        if found != 1:
            raise MutantError(
                f"{self.name}: {self.file} holds {self.old!r} {found} times; name a piece that it "
                f"holds once in {TABLE.name}"
            )
        return text.replace(self.old, self.new)


def load(path: Path = TABLE) -> list[Mutant]:
    """Read the table of mutants."""
    return [Mutant(**entry) for entry in tomllib.loads(path.read_text("utf-8"))["mutant"]]


def passes(root: Path, tests: Iterable[str]) -> bool:
    """Say whether tests of a tree pass; they import that tree alone.

    Raises:
        MutantError: pytest could not run them.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    own = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    if process.returncode not in (0, 1):  # 1: tests were run and failed
        raise MutantError("pytest could not run:\n" + "\n".join(output.splitlines()[-20:]))
    return process.returncode == 0


def killed(root: Path, mutant: Mutant) -> bool:
    """Say whether a mutant's test fails on a copy of the tree, which is as before afterwards.

    Raises:
        MutantError: The mutant does not fit the tree, or pytest could not run.
    """
    path = root / mutant.file
    changed, before = mutant.changed(root), path.read_bytes()
    path.write_text(changed, encoding="utf-8")
    try:
        return not passes(root, [mutant.test])
    finally:
        path.write_bytes(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description="Break one line at a time; does a test notice?"
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="a mutant; may be repeated")
    parser.add_argument("--list", action="store_true", help="list them and try none")
    asked = parser.parse_args(arguments)
    mutants = load()
    known = {mutant.name for mutant in mutants}
    if unknown := set(asked.only or ()) - known:
        parser.error(f"no mutant {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    wanted = [m for m in mutants if not asked.only or m.name in asked.only]
    if asked.list:
        for mutant in wanted:
            print(f"{mutant.name:28} {mutant.why}")
        return 0
    alive = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tree"
        shutil.copytree(ROOT, root, ignore=_LEFT_OUT)
        try:
            sound = passes(root, sorted({mutant.test for mutant in wanted}))
        except MutantError as error:
            print(error, file=sys.stderr)
            return 2
        if not sound:
            print("a named test fails without a mutant; mend it first", file=sys.stderr)
            return 2
        for mutant in wanted:
            start = time.monotonic()
            try:
                verdict = "killed" if killed(root, mutant) else "ALIVE"
            except MutantError as error:
                verdict = f"NOT TRIED ({error})"
            alive += verdict != "killed"
            print(f"{mutant.name:28} {verdict}, {time.monotonic() - start:.0f} s", flush=True)
    print(f"{len(wanted) - alive} of {len(wanted)} killed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
