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

import resprune
from resprune.backbones import for_model
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.boxes import assert_boxes_lie_where_seen, cell_means, ramp_image
from resprune.testing.calls import greedy
from resprune.testing.tiny import tiny_tiled

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


@pytest.fixture(scope="module")
def case(made: tuple[Any, Any], images: list[Image.Image]) -> RunCase:
    return RunCase(*made, images)


def test_tokens_are_the_projectors_own_at_their_places(case: RunCase) -> None:
    inputs = case.inputs([0], [1, 2], [])
    found = case.backbone.encode(inputs)
    with torch.no_grad():
        views = case.model.get_image_features(inputs["pixel_values"], return_dict=True)
    offset = 0
    for visual in found:
        assert visual.places is not None
        tile, row, column = visual.places.unbind(1)
        expected = views.pooler_output[offset + tile, row * 3 + column]
        assert torch.equal(visual.tokens, expected)
        offset += int(tile.max()) + 1
    assert offset == len(inputs["pixel_values"])


def test_cls_attention_equals_eager(images: list[Image.Image]) -> None:
    """Queries and keys are normed before they meet in this tower."""
    case = RunCase(*tiny_tiled("internvl", seed=1), images)
    inputs = case.inputs([0], [1, 2], [])
    found = case.backbone.encode(inputs, signals=["cls_attention"])
    tower = case.model.model.vision_tower
    assert tower.config._attn_implementation == "sdpa"
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        attention = tower(inputs["pixel_values"], output_attentions=True).attentions[-1]
    cells = attention.mean(dim=1)[:, 0, 1:].view(-1, 6, 6)
    expected = cells.unfold(1, 2, 2).unfold(2, 2, 2).sum(dim=(-1, -2)).flatten()
    signal = torch.cat([visual.signals["cls_attention"] for visual in found])
    torch.testing.assert_close(signal, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (57, 191), (24, 24), (200, 7)])
def test_boxes_lie_where_the_processor_looked(case: RunCase, size: tuple[int, int]) -> None:
    text = case.backbone.chat_prompt("What is it?")
    inputs = dict(
        case.processor(
            text=[text], images=[[ramp_image(*size)]], do_normalize=False, return_tensors="pt"
        )
    )
    visual = case.backbone.encode(inputs, image_sizes=[size])[0]
    seen = cell_means(inputs["pixel_values"], 8).flatten(0, 1)
    # as narrow an image as this is blurred by more than its few pixels
    assert_boxes_lie_where_seen(visual, seen, size, within=0.25 if min(size) > 7 else 0.35)


def test_images_of_a_batch_may_keep_different_counts(case: RunCase) -> None:
    """One token an entry: the model wants a tensor, and beams are cut at the rows' bounds."""
    inputs = case.inputs([0], [1, 3])
    visual = case.backbone.encode(inputs)
    kept = [torch.arange(count) for count in (2, 5, 7)]
    prepared = case.backbone.prepare(inputs, visual, kept)
    packed = prepared.kwargs["mm_encoder_outputs"]["image"].pooler_output
    assert packed.shape == (14, 1, case.backbone.width)
    together = greedy(case.model, prepared.kwargs, num_beams=3)[:, -4:].tolist()
    for row, (used, own) in enumerate((([0], kept[:1]), ([1, 3], kept[1:]))):
        single = case.one(row, used)
        alone = case.backbone.prepare(single, case.backbone.encode(single), own)
        assert greedy(case.model, alone.kwargs, num_beams=3)[:, -4:].tolist() == [together[row]]


def test_bad_inputs_are_named(case: RunCase) -> None:
    inputs = case.inputs([0], [1])
    backbone = case.backbone
    with pytest.raises(ResPruneError, match="pixel_values came without input_ids"):
        backbone.encode({"pixel_values": inputs["pixel_values"]})
    ids = inputs["input_ids"]
    cut = ids.clone()
    cut[0, int((ids[0] == backbone.image_token_id).nonzero()[-1])] = 0
    with pytest.raises(ResPruneError, match="row 0 of input_ids has a run of 26 image"):
        backbone.image_lengths({**inputs, "input_ids": cut})
    with pytest.raises(ResPruneError, match="placeholders of 4 views and pixel_values 3"):
        backbone.image_lengths({**inputs, "pixel_values": inputs["pixel_values"][:3]})
    with pytest.raises(ResPruneError, match="square views"):
        backbone.image_lengths({**inputs, "pixel_values": inputs["pixel_values"][..., :20]})
    with pytest.raises(ResPruneError, match="takes 2 views under the processor's settings"):
        backbone.encode(inputs, image_sizes=[(28, 28), (28, 28)])
    with pytest.raises(UnsupportedModelError, match="strategies: cls_attention, l2_norm"):
        backbone.encode(inputs, signals=["received_attention"])
    case.model.config.vision_feature_select_strategy = "full"
    try:
        with pytest.raises(UnsupportedModelError, match="set it to 'default'"):
            for_model(case.model, case.processor)
    finally:
        case.model.config.vision_feature_select_strategy = "default"


def test_frames_of_a_video_pass_through(case: RunCase) -> None:
    """The processor labels them so; they come as images."""
    text = case.backbone.chat_prompt("What is it?").replace("<IMG_", "Frame1: <IMG_")
    inputs = case.process([text], [[case.images[1]]], "left")
    assert case.backbone.has_video(inputs)
    assert not case.backbone.has_video(case.one(0, [1]))
    with resprune.attach(case.model, case.processor, case.config()) as attachment:
        with pytest.warns(UserWarning, match="video, which passes through unpruned"):
            greedy(case.model, inputs)
        assert attachment.last is not None
        assert not attachment.last.pruned
