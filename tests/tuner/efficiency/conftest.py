"""Tiny models of the three kinds of decoder."""

import pytest

from resprune import backbones
from resprune.testing.tiny import tiny_llava, tiny_qwen, tiny_tiled

MAKERS = {
    "llama": tiny_llava,
    "qwen2": lambda: tiny_tiled("llava_onevision"),
    "qwen3": lambda: tiny_qwen("qwen3_vl"),
}


@pytest.fixture(scope="module", params=list(MAKERS))
def backbone(request):
    return backbones.for_model(*MAKERS[request.param]())


@pytest.fixture(scope="module")
def llava():
    return backbones.for_model(*tiny_llava())
