"""The worked example of ``docs/how-to/method.md``, run as it stands."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import resprune
from resprune import methods
from resprune.methods import base
from resprune.setting import Setting
from resprune.testing.methods import MethodCase, MethodConformance, NestedConformance

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "method.md"


def blocks(kind: str) -> dict[str, str]:
    """The page's files of one kind, by name."""
    pattern = rf'```\w+ title="(\w+)\.{kind}"\n(.*?)```'
    return dict(re.findall(pattern, PAGE.read_text("utf-8"), re.DOTALL))


@pytest.fixture(scope="module", autouse=True)
def written() -> Iterator[dict[str, ModuleType]]:
    """The page's modules; the method is forgotten again afterwards."""
    modules = {}
    before = dict(base._METHODS)
    try:
        for name, source in blocks("py").items():
            module = modules[name] = sys.modules[name] = ModuleType(name)
            exec(compile(source, f"{PAGE.name}:{name}.py", "exec"), vars(module))
        yield modules
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        base._METHODS.clear()
        base._METHODS.update(before)


class TestConformance(MethodConformance, NestedConformance):
    @pytest.fixture
    def case(self, written: dict[str, ModuleType]) -> MethodCase:
        suite = written["test_outliers"].TestOutliers
        assert issubclass(suite, (MethodConformance, NestedConformance))
        return MethodCase(written["outliers"].Outliers())


def test_its_rule(written: dict[str, ModuleType]) -> None:
    written["test_outliers"].test_the_rule()


def test_importing_it_is_enough(written: dict[str, ModuleType]) -> None:
    assert "outliers" in methods.names("tokens")
    setting = Setting.of("outliers", 5, exponent=0.25)
    assert Setting.model_validate_json(setting.model_dump_json()) == setting
    assert type(setting.options) is written["outliers"].OutliersOptions


def test_the_entry_point_names_the_module(written: dict[str, ModuleType]) -> None:
    project = tomllib.loads(blocks("toml")["pyproject"])["project"]
    assert project["entry-points"][base._GROUP] == {"outliers": "outliers"}
    assert "outliers" in written


def test_it_is_served(
    written: dict[str, ModuleType],
    tiny_llava: tuple[Any, Any],
    images: list[Image.Image],
    tmp_path: Path,
) -> None:
    model, processor = tiny_llava
    with written["serve"].served(model, processor, tmp_path) as attached:
        backbone = attached.backbone
        text = backbone.chat_prompt("What color is the dog?", 1)
        inputs = processor(text=[text], images=[images[0]], return_tensors="pt")
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        record = attached.last
    [visual] = backbone.encode(inputs, signals=["cls_attention"])
    given = methods.Inputs(visual.tokens, signals=visual.signals)
    method = methods.get("outliers")
    expected = method.select(given, 8, method.options(exponent=0.25)).indices
    assert record.order[0].tolist() == expected.tolist()
    assert record.kept[0].tolist() == sorted(expected.tolist())
    again = resprune.PruningConfig.from_pretrained(tmp_path)
    assert again.policy() == Setting.of("outliers", 8, exponent=0.25)
