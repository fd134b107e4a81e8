"""Imports point one way (docs: CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
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
    "studies": ("tuner", "optuna"),
}


def imported(path: Path) -> set[str]:
    """Every module a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


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
