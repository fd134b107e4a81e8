"""README's Python runs as written, on a config folder where the demo leaves its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resprune import PruningConfig

README = Path(__file__).parents[1] / "README.md"


def test_the_python_of_the_readme_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line]) == 5
    monkeypatch.chdir(tmp_path)
    PruningConfig.paper_default("llava", 22).save_pretrained("runs/nano-llava/config")
    exec(compile(blocks[0], "README.md", "exec"), {})
    assert "assistant : yellow" in capsys.readouterr().out  # the scene's one star


def test_the_commands_of_the_readme_exist() -> None:
    text = README.read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z]+)", text))
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test", "docs"} <= targets
    for target in targets - {"it"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
