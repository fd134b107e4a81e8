"""Imports point one way (docs: CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "resprune": ("tuner", "optuna", "studies", "plotly", "sklearn"),
    "resprune/subspace": ("transformers", "resprune.backbones", "resprune.methods"),
    "resprune/relevance.py": ("transformers", "resprune.backbones", "resprune.methods"),
    "resprune/seeds.py": ("transformers", "resprune.backbones", "resprune.methods"),
    "resprune/backbones": ("resprune.methods", "resprune.attaching", "resprune.plan"),
    "resprune/prepare.py": ("resprune.methods", "resprune.backbones", "resprune.plan"),
    "resprune/prepare_mrope.py": ("resprune.methods", "resprune.plan"),
    "resprune/methods": (
        "transformers",
        "resprune.backbones",
        "resprune.attaching",
        "resprune.plan",
        "resprune.setting",
    ),
    "resprune/setting.py": ("transformers", "resprune.backbones", "resprune.plan"),
    "resprune/plan.py": ("transformers", "resprune.config", "resprune.attaching"),
    "resprune/attaching": ("resprune.serving", "vllm"),
    "studies": ("tuner", "optuna"),
    "examples": ("tuner", "optuna", "vllm"),
    "tuner": ("resprune.serving", "vllm"),
    "tuner/tasks": ("tuner.study", "tuner.run", "optuna"),
    "tuner/study/schema.py": ("tuner.study.file", "tuner.study.check", "tuner.run"),
}
PACKAGES = ("resprune", "tuner", "studies")


def statements(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Every import of a file, inside functions too: the module, and the names taken from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}:{node.lineno} imports from '.'; write the whole name"
            assert not node.level, f"{path}:{node.lineno} is relative; write the whole name"
            yield node.module, [alias.name for alias in node.names]


def imported(path: Path) -> set[str]:
    """Every module a file imports, and every name that may be one."""
    return {
        name
        for module, names in statements(path)
        for name in (module, *(f"{module}.{name}" for name in names))
    }


def import_graph(root: Path, packages: Sequence[str]) -> dict[str, set[str]]:
    """Modules, each with those it imports.

    That a module's packages are imported before it is no import of its own: a package may name
    its modules.
    """
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in packages
        for path in (root / package).rglob("*.py")
    }
    graph: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for module, taken in statements(path):
            parts = [f"{module}.{part}" for part in taken]
            inside = {part for part in parts if part in paths}
            graph[name] |= inside
            if module in paths and (len(inside) < len(parts) or not parts):
                graph[name].add(module)
    return graph


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules that reach one another."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        ahead = list(graph[start])
        while ahead:
            if (name := ahead.pop()) not in found:
                found.add(name)
                ahead += graph[name]
        return found

    reach = {name: reached(name) for name in graph}
    return {
        frozenset(other for other in reach[name] if name in reach[other])
        for name in graph
        if name in reach[name]
    }


def test_no_imports_in_circles() -> None:
    graph = import_graph(ROOT, PACKAGES)
    assert {"resprune.config", "tuner.cli", "studies.nano.train"} <= graph.keys()
    found = circles(graph)
    assert not found, [sorted(circle) for circle in found]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": "import p.b", "b": "import os"}, []),
        ({"a": "import p.b", "b": "from p.a import x"}, ["p.a p.b"]),
        ({"a": "def f():\n    from p import b", "b": "import p.a as x"}, ["p.a p.b"]),
        ({"a": "if TYPE_CHECKING:\n    from p.b import x", "b": "import p.a"}, ["p.a p.b"]),
        ({"a": "import p.b", "b": "import p.c", "c": "import p.a"}, ["p.a p.b p.c"]),
        ({"a": "import p.b", "b": "import p.a", "c": "import p.a, p.b"}, ["p.a p.b"]),
        ({"__init__": "from p.a import x", "a": "from p import b", "b": ""}, []),
        ({"__init__": "from p.a import x", "a": "from p import y"}, ["p p.a"]),
    ],
)
def test_a_circle_would_be_found(
    tmp_path: Path, files: dict[str, str], expected: list[str]
) -> None:
    (tmp_path / "p").mkdir()
    for name, text in files.items():
        (tmp_path / "p" / f"{name}.py").write_text(text, encoding="utf-8")
    found = circles(import_graph(tmp_path, ["p"]))
    assert sorted(" ".join(sorted(circle)) for circle in found) == expected


def test_files_know_nothing_but_errors() -> None:
    for path in sorted((ROOT / "resprune" / "files").rglob("*.py")):
        for module, _ in statements(path):
            ours = module.split(".")[0] in PACKAGES
            assert not ours or module.startswith(("resprune.errors", "resprune.files")), path


@pytest.mark.parametrize("place", FORBIDDEN)
def test_arrows_point_one_way(place: str) -> None:
    target = ROOT / place
    files = [target] if target.is_file() else sorted(target.rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            for banned in FORBIDDEN[place]:
                assert name != banned, f"{path} imports {name}"
                assert not name.startswith(f"{banned}."), f"{path} imports {name}"


def fresh(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.strip()


def test_importing_resprune_changes_nothing_in_transformers() -> None:
    code = """
import transformers
from transformers import GenerationMixin, LlavaForConditionalGeneration as M
before = {k: v for c in (M, GenerationMixin) for k, v in vars(c).items()}
import resprune, resprune.attaching.attachment, resprune.backbones, resprune.methods
after = {k: v for c in (M, GenerationMixin) for k, v in vars(c).items()}
print(before.keys() == after.keys() and all(before[k] is after[k] for k in before))
"""
    assert fresh(code) == "True"


def test_the_bare_import_and_the_command_line_are_light() -> None:
    heavy = [
        "torch",
        "transformers",
        "optuna",
        "spacy",
        "sklearn",
        "plotly",
        "datasets",
        "pydantic",
    ]
    code = f"import sys, resprune, tuner.cli; print([m for m in {heavy} if m in sys.modules])"
    assert fresh(code) == "[]"


def test_the_tasks_and_the_study_file_are_light() -> None:
    # a study asks methods for their options, and those are made of tensors
    heavy = ["transformers", "optuna", "spacy", "sklearn", "plotly", "datasets"]
    code = f"import sys, tuner.tasks; print([m for m in {['torch', *heavy]} if m in sys.modules])"
    assert fresh(code) == "[]"
    code = f"import sys, tuner.study; print([m for m in {heavy} if m in sys.modules])"
    assert fresh(code) == "[]"
