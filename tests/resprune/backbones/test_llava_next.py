"""LLaVA-NeXT: the conformance suite, and what is particular to the family."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.tiled import NewlineCase
from resprune.testing.tiny_tiled import tiny_tiled


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return tiny_tiled("llava_next", folder=tmp_path_factory.mktemp("llava-next"))


class TestConformance(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, made: tuple[Any, Any], images: list[Image.Image]) -> Case:
        return NewlineCase(*made, images)
