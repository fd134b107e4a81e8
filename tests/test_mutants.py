"""The list of mutants does not rot, and the program that tries them tells killed from alive."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import ROOT, Mutant, MutantError, killed, load

MUTANTS = load()


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_every_mutant_is_one_line_that_is_still_there(mutant: Mutant) -> None:
    before = (ROOT / mutant.file).read_text(encoding="utf-8").splitlines()
    after = mutant.changed(ROOT).splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    path, _, test = mutant.test.partition("::")
    assert path.startswith("tests/")
    assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8")
    assert mutant.why.endswith(".")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of one module and its test."""
    (tmp_path / "sums.py").write_text("def add(a, b):\n    return a + b  # or b + a\n")
    test = "from sums import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"
    (tmp_path / "test_sums.py").write_text(test)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [("return a + b", "return a - b", True), ("return a + b", "return b + a", False)],
)
def test_killed_and_alive(tree: Path, old: str, new: str, expected: bool) -> None:
    before = (tree / "sums.py").read_bytes()
    assert killed(tree, Mutant("m", "sums.py", old, new, "test_sums.py", "")) == expected
    assert (tree / "sums.py").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "old", "test", "message"),
    [
        ("sums.py", "a * b", "test_sums.py", r"m: sums\.py holds 'a \* b' 0 times"),
        ("sums.py", "b", "test_sums.py", r"holds 'b' 3 times"),
        ("gone.py", "a", "test_sums.py", r"m: gone\.py: No such file"),
        ("sums.py", "return a + b", "test_gone.py", r"pytest could not run:[\s\S]*test_gone\.py"),
        ("sums.py", "return a + b", "test_sums.py", r"pytest could not run:[\s\S]*SyntaxError"),
    ],
)
def test_what_cannot_be_tried(tree: Path, file: str, old: str, test: str, message: str) -> None:
    with pytest.raises(MutantError, match=message):
        killed(tree, Mutant("m", file, old, "return (", test, ""))
