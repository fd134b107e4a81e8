"""LLaVA-OneVision: the conformance suite, and what is particular to the family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resprune.backbones import for_model
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.boxes import assert_boxes_lie_where_seen, cell_means, ramp_image
from resprune.testing.newlines import NewlineCase
from resprune.testing.tiny import tiled_processor, tiny_tiled

pytestmark = pytest.mark.filterwarnings("ignore:.*loaded for images only")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return tiny_tiled("llava_onevision", folder=tmp_path_factory.mktemp("llava-onevision"))


@pytest.fixture(scope="module")
def case(made: tuple[Any, Any], images: list[Image.Image]) -> NewlineCase:
    return NewlineCase(*made, images)


class TestConformance(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, made: tuple[Any, Any], images: list[Image.Image]) -> Case:
        return NewlineCase(*made, images)


def packed(
    case: NewlineCase, views: torch.Tensor, size: tuple[int, int], limit: int = 2
) -> torch.Tensor:
    """Per-patch values (views, cells, c) as the model packs them, newlines left out."""
    newline = torch.full((views.shape[-1],), -1.0)
    rows = case.model.model.pack_image_features(
        [views],
        torch.tensor([size]),
        image_newline=newline,
        vision_aspect_ratio=f"anyres_max_{limit}",
    )[0][0]
    return rows[rows[:, 0] != -1]


@pytest.mark.parametrize(
    ("size", "coarser"), [((28, 40), False), ((60, 28), False), ((40, 90), True), ((90, 90), True)]
)
def test_boxes_lie_where_the_processor_looked(
    case: NewlineCase, size: tuple[int, int], coarser: bool
) -> None:
    """Also where the model makes the tiles coarser."""
    pixels = case.processor.image_processor(
        images=[ramp_image(*size)], do_normalize=False, return_tensors="pt"
    )
    visual = case.backbone.encode(dict(pixels), image_sizes=[size])[0]
    views = pixels["pixel_values"][0]
    means = cell_means(views, 7)
    assert (len(visual.tokens) < len(packed(case, means, size, limit=99))) == coarser
    seen = packed(case, means, size)
    assert_boxes_lie_where_seen(visual, seen, size)
    # a token's place is the cell that holds its centre: at most half a token away
    tile, row, column = visual.tile_row_column().unbind(1)
    assert_boxes_lie_where_seen(visual, means[tile, 4 * row + column], size, within=0.7)


def test_received_attention_equals_eager(images: list[Image.Image]) -> None:
    case = NewlineCase(*tiny_tiled("llava_onevision", seed=1), images)
    inputs = case.inputs([0], [3], [1, 2])
    found = case.backbone.encode(inputs, signals=["received_attention"])
    tower = case.model.model.vision_tower
    assert tower.config._attn_implementation == "sdpa"
    tower.set_attn_implementation("eager")
    for image, visual in enumerate(found):
        count = 1 if image > 1 else case.backbone._tile_counts(inputs)[image]  # type: ignore[attr-defined]
        views = inputs["pixel_values"][image, :count]
        with torch.no_grad():
            attention = tower(views, output_attentions=True).attentions[-1]
        size = tuple(inputs["image_sizes"][image].tolist())
        expected = packed(case, attention.mean(dim=(1, 2))[..., None], size)[:, 0]
        signal = visual.signals["received_attention"]
        torch.testing.assert_close(signal, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(signal[:16].sum(), torch.tensor(1.0))


def test_several_images_in_a_row_have_one_view_each(case: NewlineCase) -> None:
    inputs = case.inputs([0], [1, 2])
    several = case.backbone.encode(inputs)
    assert [visual.grid for visual in several] == [(0, 0), (4, 4), (4, 4)]
    assert [len(visual.extras["newlines"]) for visual in several][1:] == [1, 1]
    assert several[1].places is not None
    assert several[1].places.tolist() == [
        [0, row, column] for row in range(4) for column in range(4)
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 200)])
def test_extreme_sizes(case: NewlineCase, size: tuple[int, int]) -> None:
    """The processor and the model agree on the placeholders, and so does the backbone."""
    text = case.backbone.chat_prompt("What is it?")
    inputs = case.process([text], [[ramp_image(*size)]], "left")
    placeholders = int((inputs["input_ids"] == case.backbone.image_token_id).sum())
    assert case.backbone.image_lengths(inputs) == [placeholders]
    visual = case.backbone.encode(inputs, image_sizes=[size])[0]
    assert len(visual.tokens) + len(visual.extras["newlines"]) == placeholders


@pytest.mark.parametrize(
    "size", [(1, 1), (480, 640), (1080, 1920), (7, 900), (900, 7), (384, 384), (3999, 40)]
)
def test_real_geometry(real: tuple[Any, Any], size: tuple[int, int]) -> None:
    """384 pixels, patches of 14 and at most 9 tiles' worth, as released: the processor agrees."""
    model, processor = real
    pixels = torch.zeros(1, 1, 3, 384, 384).expand(1, 37, 3, 384, 384)
    inputs = {"pixel_values": pixels, "image_sizes": torch.tensor([size])}
    expected = processor._get_number_of_features(*size, 384, 384)
    assert for_model(model, processor).image_lengths(inputs) == [expected]


@pytest.fixture(scope="module")
def real() -> tuple[Any, Any]:
    import transformers

    processor = tiled_processor("llava_onevision")
    processor.num_image_tokens, processor.vision_aspect_ratio = 27**2, "anyres_max_9"
    defaults = transformers.LlavaOnevisionConfig()
    processor.image_processor.image_grid_pinpoints = defaults.image_grid_pinpoints
    config = tiny_tiled("llava_onevision")[0].config
    config.image_grid_pinpoints = defaults.image_grid_pinpoints
    config.vision_aspect_ratio = "anyres_max_9"
    config.vision_config.image_size, config.vision_config.patch_size = 384, 14
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def test_bad_inputs_are_named(case: NewlineCase) -> None:
    inputs = case.inputs([0], [1, 2])
    backbone = case.backbone
    with pytest.raises(ResPruneError, match="vision_aspect_ratio cannot be set per call"):
        backbone.encode({**inputs, "vision_aspect_ratio": "anyres_max_4"})
    with pytest.raises(ResPruneError, match=r"batch_num_images \[1\] add up to 1 .* 3 images"):
        backbone.encode({**inputs, "batch_num_images": torch.tensor([1])})
    with pytest.raises(ResPruneError, match=r"image 0 takes .* views"):
        backbone.encode({**inputs, "pixel_values": inputs["pixel_values"][:, :1]})
    with pytest.raises(UnsupportedModelError, match="strategies: received_attention, l2_norm"):
        backbone.encode(inputs, signals=["cls_attention"])
    broken = inputs["pixel_values"].clone()
    broken[1] = np.nan
    with pytest.raises(ResPruneError, match="image 1 of this batch"):
        backbone.encode({**inputs, "pixel_values": broken})
