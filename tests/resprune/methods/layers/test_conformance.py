"""Every shipped method inside the LLM passes its suite."""

from __future__ import annotations

import pytest

from resprune import methods
from resprune.testing.layers import LayerConformance
from resprune.testing.methods import MethodCase

SHIPPED = [
    name
    for name in methods.names("layers")
    if type(methods.get(name)).__module__.startswith("resprune.methods.")
]


@pytest.mark.parametrize("case", [MethodCase(methods.get(name)) for name in SHIPPED], ids=SHIPPED)
class TestLayers(LayerConformance):
    pass


def test_the_rivals_inside_the_llm_are_here() -> None:
    assert set(SHIPPED) >= {"fastv", "dart", "pyramiddrop", "sparsevlm"}
