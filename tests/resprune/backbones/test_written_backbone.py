"""The worked example of ``docs/how-to/backbone.md``, run as it stands under the suite."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from resprune import backbones
from resprune.backbones import base
from resprune.errors import UnsupportedModelError
from resprune.testing.backbones import BackboneConformance, Case

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "backbone.md"


def _blocks() -> dict[str, str]:
    found = re.findall(r'```python title="(\w+)\.py"\n(.*?)```', PAGE.read_text("utf-8"), re.DOTALL)
    return dict(found)


@pytest.fixture(scope="module")
def written() -> Iterator[dict[str, ModuleType]]:
    """The page's files as modules; the family is forgotten again afterwards."""
    modules = {}
    before = dict(base._REGISTRY)
    try:
        for name, source in _blocks().items():
            module = modules[name] = sys.modules[name] = ModuleType(name)
            exec(compile(source, f"{PAGE.name}:{name}.py", "exec"), vars(module))
        yield modules
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        base._REGISTRY.clear()
        base._REGISTRY.update(before)


class TestConformance(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, written: dict[str, ModuleType], images: list[Image.Image]) -> Case:
        page = written["test_vipllava"]
        assert issubclass(page.TestConformance, BackboneConformance)
        return Case(*page.tiny_vipllava(), images)


def test_importing_it_is_enough(written: dict[str, ModuleType]) -> None:
    model, processor = written["test_vipllava"].tiny_vipllava()
    assert "vipllava" in backbones.names()
    backbone = backbones.for_model(model, processor)
    assert type(backbone) is written["vipllava"].VipLlavaBackbone
    assert backbone.facts()["seed_strategies"] == ["l2_norm", "relevance", "none"]


def test_its_own_refusal(written: dict[str, ModuleType]) -> None:
    model, processor = written["test_vipllava"].tiny_vipllava()
    model.config.vision_config.model_type = "siglip_vision_model"
    with pytest.raises(UnsupportedModelError, match="vipllava with a 'siglip_vision_model'"):
        backbones.for_model(model, processor)
