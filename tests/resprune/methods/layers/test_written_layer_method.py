"""The worked example of ``docs/how-to/layer-method.md``, run as it stands."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from resprune import methods
from resprune.methods import base
from resprune.setting import Setting
from resprune.testing.case import Case
from resprune.testing.layers import LayerConformance
from resprune.testing.methods import MethodCase

PAGE = Path(__file__).parents[4] / "docs" / "how-to" / "layer-method.md"


@pytest.fixture(scope="module", autouse=True)
def written() -> Iterator[dict[str, ModuleType]]:
    """The page's modules; the method is forgotten again afterwards."""
    modules = {}
    before = dict(base._METHODS)
    blocks = re.findall(r'```python title="(\w+)\.py"\n(.*?)```', PAGE.read_text("utf-8"), re.S)
    try:
        for name, source in blocks:
            module = modules[name] = sys.modules[name] = ModuleType(name)
            exec(compile(source, f"{PAGE.name}:{name}.py", "exec"), vars(module))
        yield modules
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        base._METHODS.clear()
        base._METHODS.update(before)


class TestConformance(LayerConformance):
    @pytest.fixture
    def case(self, written: dict[str, ModuleType]) -> MethodCase:
        assert issubclass(written["test_drift"].TestDrift, LayerConformance)
        return MethodCase(written["drift"].Drift())


def test_its_rule(written: dict[str, ModuleType]) -> None:
    written["test_drift"].test_the_rule()


def test_importing_it_is_enough(written: dict[str, ModuleType]) -> None:
    assert "drift" in methods.names("layers")
    setting = Setting.of("drift", 5, layer=4)
    assert Setting.model_validate_json(setting.model_dump_json()) == setting


def test_what_it_costs(written: dict[str, ModuleType]) -> None:
    use = written["use"]
    assert use.costs == [(8 * 576 + 24 * 72) / 32, (16 * 128 + 16 * 32) / 32]
    assert use.fair == (192 * 32 - 8 * 576) // 24


def test_a_model_runs_it(
    written: dict[str, ModuleType], tiny_llava: tuple[Any, Any], images: list[Image.Image]
) -> None:
    """The tokens that are left are those whose hidden states, as the model gives them, turned."""
    model, processor = tiny_llava
    case = Case(model, processor, images)
    inputs = case.inputs([0])
    setting = Setting.of("drift", 6, layer=16)  # the second of two layers
    [left], cost = written["serve"].left_by(model, processor, inputs, setting)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    image = inputs["input_ids"][0] == case.backbone.image_token_id
    first, now = (states[layer][0, image].double() for layer in (0, 1))
    cosines = torch.cosine_similarity(first, now, dim=1)
    assert left.tolist() == cosines.argsort()[:6].sort().values.tolist()
    assert cost == [(16 + 6) / 2]
