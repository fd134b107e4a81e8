"""A method inside the LLM made up for tests of what a study may say of one."""

from typing import Annotated

import pytest
from pydantic import Field

from resprune.errors import ResPruneError
from resprune.methods import base
from resprune.methods.layers import LayerMethod
from resprune.options import Options, Search


class ThinnerOptions(Options):
    """A whole number, a switch and a number."""

    layer: Annotated[int, Field(ge=1), Search(low=1, high=9, step=2)] = 3
    merge: Annotated[bool, Search(choices=(False, True))] = False
    share: Annotated[float, Field(ge=0.0, le=1.0), Search(low=0.0, high=1.0, step=0.5)] = 0.5


class Thinner(LayerMethod[ThinnerOptions]):
    """Drops before a layer, and renumbers."""

    name = "thinner"
    options = ThinnerOptions
    published = "compact"

    def schedule(self, options, depth, tokens, k):
        if options.layer >= depth:
            raise ResPruneError(f"layer {options.layer} is none of 1 to {depth - 1}")
        return {options.layer: k}

    def visit(self, view, memory, options):
        raise AssertionError("no model runs here")


@pytest.fixture
def thinner(monkeypatch):
    monkeypatch.setattr(base, "_METHODS", dict(base._METHODS))
    base.register(Thinner)
    return "thinner"
