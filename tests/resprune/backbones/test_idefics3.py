"""Idefics3 and SmolVLM: the conformance suite, and what is particular to them."""

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
class TaggedCase(Case):
    """The model gives features by row; the tags in the text tell the images apart."""

    def features(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        tokens = self.model.base_model.image_seq_len
        found: list[Tensor] = []
        for ids, rows in zip(inputs["input_ids"], super().features(inputs), strict=True):
            text = self.processor.tokenizer.decode(ids)
            tags = " ".join(re.findall(r"<row_\d_col_\d>|<global-img>", text))
            views = [len(part.split()) + 1 for part in tags.split("<global-img>")[:-1]]
            found.extend(torch.split(rows, [count * tokens for count in views]))
        return found


@pytest.fixture(scope="module", params=["idefics3", "smolvlm"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tiled(request.param, folder=tmp_path_factory.mktemp(request.param))


class TestConformance(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, made: tuple[Any, Any], images: list[Image.Image]) -> Case:
        return TaggedCase(*made, images)
