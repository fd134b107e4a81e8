"""The Qwen families: the conformance suite, and what is particular to them."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.mrope import MropeCase
from resprune.testing.tiny_qwen import FAMILIES, tiny_qwen


@pytest.mark.filterwarnings("ignore:.*loaded for images only")
class QwenConformance(BackboneConformance):
    family: str

    @pytest.fixture(scope="class")
    def case(
        self, images: list[Image.Image], tmp_path_factory: pytest.TempPathFactory
    ) -> Case:
        model, processor = tiny_qwen(self.family, folder=tmp_path_factory.mktemp(self.family))
        return MropeCase(model, processor, images)


class TestQwen2VL(QwenConformance):
    family = "qwen2_vl"


class TestQwen25VL(QwenConformance):
    family = "qwen2_5_vl"


class TestQwen3VL(QwenConformance):
    family = "qwen3_vl"
