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

import resprune
from resprune.backbones import for_model
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.boxes import assert_boxes_lie_where_seen, cell_means, ramp_image
from resprune.testing.calls import greedy
from resprune.testing.tiny import tiled_processor, tiled_tokenizer, tiny_tiled

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


@pytest.fixture(scope="module")
def case(made: tuple[Any, Any], images: list[Image.Image]) -> TaggedCase:
    return TaggedCase(*made, images)


def test_tokens_are_the_connectors_own_at_their_places(case: TaggedCase) -> None:
    inputs = case.inputs([0], [1, 2], [])
    found = case.backbone.encode(inputs)
    base = case.model.model
    offset = 0
    real = [view for row in inputs["pixel_values"] for view in row if bool(view.any())]
    with torch.no_grad():
        expected = base.connector(base.vision_model(torch.stack(real)).last_hidden_state)
    for visual in found:
        assert visual.places is not None
        tile, row, column = visual.places.unbind(1)
        torch.testing.assert_close(visual.tokens, expected[offset + tile, row * 3 + column])
        offset += int(tile.max()) + 1
    assert offset == len(real)


def test_received_attention_equals_eager(images: list[Image.Image]) -> None:
    case = TaggedCase(*tiny_tiled("idefics3", seed=1), images)
    inputs = case.inputs([0], [1, 2], [])
    found = case.backbone.encode(inputs, signals=["received_attention"])
    tower = case.model.model.vision_model
    assert tower.config._attn_implementation == "sdpa"
    tower.set_attn_implementation("eager")
    real = [view for row in inputs["pixel_values"] for view in row if bool(view.any())]
    with torch.no_grad():
        attention = tower(torch.stack(real), output_attentions=True).attentions[-1]
    cells = attention.mean(dim=(1, 2)).view(-1, 6, 6)
    expected = cells.unfold(1, 2, 2).unfold(2, 2, 2).sum(dim=(-1, -2)).flatten()
    signal = torch.cat([visual.signals["received_attention"] for visual in found])
    torch.testing.assert_close(signal, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (57, 191), (24, 24), (200, 7)])
def test_boxes_lie_where_the_processor_looked(case: TaggedCase, size: tuple[int, int]) -> None:
    text = case.backbone.chat_prompt("What is it?")
    inputs = dict(
        case.processor(
            text=[text], images=[[ramp_image(*size)]], do_normalize=False, return_tensors="pt"
        )
    )
    visual = case.backbone.encode(inputs, image_sizes=[size])[0]
    seen = cell_means(inputs["pixel_values"][0], 8).flatten(0, 1)
    # as narrow an image as this is blurred by more than its few pixels
    assert_boxes_lie_where_seen(visual, seen, size, within=0.25 if min(size) > 7 else 0.35)


def test_an_image_without_tiles(case: TaggedCase) -> None:
    text = case.backbone.chat_prompt("What is it?")
    size = (40, 60)
    inputs = dict(
        case.processor(
            text=[text], images=[[ramp_image(*size)]], do_image_splitting=False, return_tensors="pt"
        )
    )
    visual = case.backbone.encode(inputs, image_sizes=[size])[0]
    assert visual.grid == (3, 3)
    assert visual.boxes is not None
    assert visual.boxes[-1].tolist() == pytest.approx([40, 26.6667, 60, 40], abs=1e-3)


def test_bad_inputs_are_named(case: TaggedCase) -> None:
    inputs = case.inputs([0], [1])
    backbone = case.backbone
    ids = inputs["input_ids"]
    without = {name: value for name, value in inputs.items() if name != "input_ids"}
    with pytest.raises(ResPruneError, match="pixel_values came without input_ids"):
        backbone.encode(without)
    last = int((ids[0] == backbone.image_token_id).nonzero()[-1])
    cut = ids.clone()
    cut[0, last - 8 : last] = 0
    with pytest.raises(ResPruneError, match="row 0 of input_ids has a run of 1 image placeholders"):
        backbone.image_lengths({**inputs, "input_ids": cut})
    tag = case.processor.tokenizer.convert_tokens_to_ids("<global-img>")
    with pytest.raises(ResPruneError, match="image without its whole view"):
        backbone.image_lengths({**inputs, "input_ids": ids.masked_fill(ids == tag, 0)})
    with pytest.raises(ResPruneError, match="row 1 has placeholders of 0 views and pixel_values"):
        backbone.image_lengths(
            {**inputs, "input_ids": torch.stack([ids[0], torch.zeros_like(ids[0])])}
        )
    blank = inputs["pixel_values"].clone()
    blank[0, 0] = 0
    with pytest.raises(ResPruneError, match=r"row 0 has placeholders of 5 views .* of 4 "):
        backbone.image_lengths({**inputs, "pixel_values": blank})
    with pytest.raises(ResPruneError, match="square views"):
        backbone.image_lengths({**inputs, "pixel_values": inputs["pixel_values"][..., :20]})
    with pytest.raises(ResPruneError, match="image_sizes has 1 entries for 2 images"):
        backbone.encode(inputs, image_sizes=[(4, 4)])
    with pytest.raises(UnsupportedModelError, match="strategies: received_attention, l2_norm"):
        backbone.encode(inputs, signals=["cls_attention"])


def test_a_tokenizer_without_tags_is_refused(case: TaggedCase) -> None:
    processor = tiled_processor("idefics3")
    processor.tokenizer = tiled_tokenizer("llava_next")
    with pytest.raises(UnsupportedModelError, match="no token '<global-img>'"):
        for_model(case.model, processor)


def test_frames_of_a_video_pass_through(case: TaggedCase) -> None:
    """SmolVLM's processor labels them so; they come as images."""
    text = case.backbone.chat_prompt("What is it?").replace("<image>", "Frame from 00:01:<image>")
    square = case.images[1]
    inputs = case.process([text], [[square]], "left")
    labelled = dict(
        case.processor(
            text=[text], images=[[square]], do_image_splitting=False, return_tensors="pt"
        )
    )
    assert not case.backbone.has_video(inputs)  # a frame has one view
    assert case.backbone.has_video(labelled)
    with resprune.attach(case.model, case.processor, case.config()) as attachment:
        with pytest.warns(UserWarning, match="video, which passes through unpruned"):
            greedy(case.model, labelled)
        assert attachment.last is not None
        assert not attachment.last.pruned


def test_tags_between_views_are_no_question(case: TaggedCase) -> None:
    """They are text, and nothing else follows an image that comes last."""
    turn = {"role": "user", "content": [{"type": "text", "text": "Which dog?"}, {"type": "image"}]}
    text = case.processor.apply_chat_template([turn], add_generation_prompt=True)
    ids = case.process([text], [[case.images[0]]], "left")["input_ids"][0]
    assert "<row_1_col_2>" in case.processor.tokenizer.decode(ids)
    assert case.backbone.question(ids) == "Which dog?"
