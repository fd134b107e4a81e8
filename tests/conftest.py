"""Tiny models shared by the tests; made once, never changed by a test."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(model, processor): random LLaVA-1.5 of 16 visual tokens, processor saved and loaded."""
    from resprune.testing.tiny import tiny_llava as make

    return make(folder=tmp_path_factory.mktemp("tiny-llava"))


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Four images of noise, of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(40, 60), (28, 28), (64, 33), (50, 90)]
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in sizes
    ]
