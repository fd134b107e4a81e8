"""InternVL: the conformance suite, and what is particular to the family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.tiny_tiled import tiny_tiled

pytestmark = pytest.mark.filterwarnings("ignore:.*loaded for images only")


@dataclass
class RunCase(Case):
    """The model gives features by view; an image is what lies between its two marks."""

    def features(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        text = " ".join(self.processor.tokenizer.decode(ids) for ids in inputs["input_ids"])
        parts = re.findall(r"<img>(.*?)</img>", text)
        lengths = [part.count("<IMG_CONTEXT>") for part in parts]
        return list(torch.split(torch.cat(super().features(inputs)), lengths))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return tiny_tiled("internvl", folder=tmp_path_factory.mktemp("internvl"))


class TestConformance(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, made: tuple[Any, Any], images: list[Image.Image]) -> Case:
        return RunCase(*made, images)
