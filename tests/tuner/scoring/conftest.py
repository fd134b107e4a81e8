"""A bench around any backbone, and samples whose images differ in size."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from resprune import NounExtractor, backbones
from resprune.prompt import PromptReader
from resprune.testing.tiny import tiny_qwen
from tuner import tasks
from tuner.scoring import metrics
from tuner.scoring.bench import Bench
from tuner.scoring.model import load_backbone
from tuner.scoring.outcomes import Outcomes
from tuner.scoring.split import Split
from tuner.scoring.visual import VisualCache
from tuner.study import BackboneSection

SIZES = [(56, 56), (112, 56), (84, 84), (140, 112), (56, 168), (112, 112)]
QUESTIONS = ("Is the left circle red?", "How many stars are there?", "What color is the square?")


@pytest.fixture(scope="session")
def extractor():
    return NounExtractor()


@pytest.fixture(scope="session")
def random_llava(nano_random):
    """nano-llava's architecture with random weights."""
    return backbones.for_model(*nano_random)


@pytest.fixture(scope="session")
def nano_llava():
    """The shipped nano-llava: its answers follow what it sees."""
    return load_backbone(BackboneSection(model="nano-llava", device="cpu"))


@pytest.fixture(scope="session")
def ragged():
    """A tiny model whose count of visual tokens follows the image."""
    model, processor = tiny_qwen("qwen2_5_vl")
    return backbones.for_model(model.eval(), processor)


@pytest.fixture(scope="session")
def ragged_samples():
    """Three questions about each of two images, then one about each of four others."""
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]
    asked = [(i, question) for i in range(2) for question in QUESTIONS]
    asked += [(i, QUESTIONS[i % 3]) for i in range(2, len(pictures))]
    return [
        tasks.Sample(f"{n}", f"{i}", question, question, ("a",), "", lambda i=i: pictures[i])
        for n, (i, question) in enumerate(asked)
    ]


@pytest.fixture
def make_split(tmp_path, extractor):
    """Make a split over the one cache and the one file of outcomes of a test."""
    opened = []

    def make(backbone, samples, *, key="model", metric="score", folder=tmp_path, **options):
        folder.mkdir(exist_ok=True)
        outcomes = Outcomes(folder / "outcomes.sqlite")
        opened.append(outcomes)
        bench = Bench(
            backbone=backbone,
            model_key=key,
            task=tasks.get("nano-scenes"),
            metric=metrics.get(metric),
            visual=VisualCache(folder / "cache", backbone, key, backbone.seed_signals),
            outcomes=outcomes,
            reader=PromptReader(backbone, extractor),
            **{"batch_size": 4, **options},
        )
        return Split("tune", samples, bench)

    yield make
    for outcomes in opened:
        outcomes.close()


@pytest.fixture(scope="session")
def scenes():
    """Eleven questions about two images of nano-scenes."""
    return tasks.get("nano-scenes").samples("tune", 11)


@pytest.fixture
def with_answers():
    """Replace the gold answers of samples."""

    def replaced(samples, answers):
        return [
            dataclasses.replace(sample, answers=each)
            for sample, each in zip(samples, answers, strict=True)
        ]

    return replaced
