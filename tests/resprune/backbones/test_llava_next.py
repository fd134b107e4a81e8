"""LLaVA-NeXT: the conformance suite, and what is particular to the family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import resprune
from resprune.backbones import for_model
from resprune.config import PruningConfig
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.boxes import assert_boxes_lie_where_seen, cell_means, ramp_image
from resprune.testing.checks import assert_close
from resprune.testing.newlines import NewlineCase
from resprune.testing.tiny import tiled_processor, tiny_tiled

SIDE = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return tiny_tiled("llava_next", folder=tmp_path_factory.mktemp("llava-next"))


@pytest.fixture(scope="module")
def case(made: tuple[Any, Any], images: list[Image.Image]) -> NewlineCase:
    return NewlineCase(*made, images)


class TestConformance(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, made: tuple[Any, Any], images: list[Image.Image]) -> Case:
        return NewlineCase(*made, images)


def by_place(values: Tensor, places: Tensor) -> Tensor:
    """Look values (tiles, cells, ...) up by tile, row and column."""
    return values[places[:, 0], places[:, 1] * SIDE + places[:, 2]]


def test_tokens_are_the_towers_own_at_their_places(case: NewlineCase) -> None:
    inputs = case.inputs([0], [1, 2])
    found = case.backbone.encode(inputs)
    base = case.model.model
    for pixels, visual in zip(inputs["pixel_values"], found, strict=True):
        with torch.no_grad():
            states = base.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
            expected = base.multi_modal_projector(states[:, 1:])
        assert visual.places is not None
        torch.testing.assert_close(visual.tokens, by_place(expected, visual.places))
        # the base view first and whole, then the tiles row by row across all of them
        assert visual.places[: SIDE**2, 0].tolist() == [0] * SIDE**2
        assert int(visual.places[SIDE**2 :, 0].min()) == 1


def test_cls_attention_equals_eager_tile_by_tile(images: list[Image.Image]) -> None:
    case = NewlineCase(*tiny_tiled("llava_next", seed=1), images)
    inputs = case.inputs([0], [3, 2])
    found = case.backbone.encode(inputs, signals=["cls_attention"])
    tower = case.model.model.vision_tower
    assert tower.config._attn_implementation == "sdpa"
    tower.set_attn_implementation("eager")
    for pixels, visual in zip(inputs["pixel_values"], found, strict=True):
        with torch.no_grad():
            attention = tower(pixels, output_attentions=True).attentions[-2]
        expected = by_place(attention.mean(dim=1)[:, 0, 1:], visual.tile_row_column())
        signal = visual.signals["cls_attention"]
        torch.testing.assert_close(signal, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (57, 91), (56, 56), (90, 40)])
def test_boxes_lie_where_the_processor_looked(case: NewlineCase, size: tuple[int, int]) -> None:
    pixels = case.processor.image_processor(
        images=[ramp_image(*size)], do_normalize=False, return_tensors="pt"
    )
    visual = case.backbone.encode(dict(pixels), image_sizes=[size])[0]
    means = cell_means(pixels["pixel_values"][0], 7)
    assert_boxes_lie_where_seen(visual, by_place(means, visual.tile_row_column()), size)


@pytest.mark.parametrize("budget", [1.0, 32, 31, 10_000])
def test_newlines_stay_only_at_full_budget(case: NewlineCase, budget: int | float) -> None:
    inputs = case.one(0, [0])  # 40 x 60: 16 tokens of the base view, and 4 rows of 8
    visual = case.backbone.encode(inputs)[0]
    tokens, placeholders = len(visual.tokens), case.backbone.image_lengths(inputs)[0]
    rows = placeholders - tokens
    assert rows == len(visual.extras["newlines"]) > 0
    with resprune.attach(case.model, case.processor, case.config(budget)) as attachment:
        with torch.no_grad():
            case.model(**inputs)
        record = attachment.last
    assert record is not None
    assert record.visual_tokens == [tokens]  # newlines are not counted
    kept = len(record.kept[0])
    text = inputs["input_ids"].shape[1] - placeholders
    full = kept == tokens
    assert full == (budget in (1.0, 10_000))
    assert len(record.kept_positions[0]) == text + kept + (rows if full else 0)


def test_features_of_a_method_go_between_the_newlines(case: NewlineCase) -> None:
    inputs = case.one(0, [0])
    visual = case.backbone.encode(inputs)
    count = len(visual[0].tokens)
    own = torch.randn(count, case.backbone.width, generator=torch.Generator().manual_seed(0))
    prepared = case.backbone.prepare(inputs, visual, [torch.arange(count)], features=[own])
    rows = prepared.kwargs["mm_encoder_outputs"]["image"].pooler_output[0]
    newline = case.model.model.image_newline
    there = torch.tensor([bool(torch.equal(row, newline)) for row in rows])
    assert torch.equal(rows[~there], own)
    assert there.nonzero()[:, 0].tolist() == visual[0].extras["newlines"].tolist()


@pytest.mark.parametrize(("size", "rows"), [((1, 300), 0), ((300, 1), 4), ((1, 1), 4)])
def test_extreme_sizes(case: NewlineCase, size: tuple[int, int], rows: int) -> None:
    """A long thin image keeps its base view alone: unpadding leaves no column of its tiles."""
    text = case.backbone.chat_prompt("What is it?")
    inputs = case.process([text], [[ramp_image(*size)]], "left")
    visual = case.backbone.encode(inputs, image_sizes=[size])[0]
    thin = max(size) > 1
    assert len(visual.tokens) == (16 if thin else 32)
    assert visual.grid == ((SIDE, SIDE) if thin else (0, 0))
    assert len(visual.extras["newlines"]) == rows
    config = PruningConfig.single(3, alpha=0.5, seed_strategy="cls_attention")
    with torch.no_grad():
        expected = case.model(**inputs).logits
        with resprune.attach(case.model, case.processor, config) as attachment:
            found = case.model(**inputs).logits
            assert_close(found[:, :2], expected[:, :2], case.tolerance)
            assert attachment.last is not None
            assert len(attachment.last.kept[0]) == 3
            case.model.generate(**inputs, max_new_tokens=2)


SIZES = [(1, 1), (480, 640), (1080, 1920), (7, 900), (900, 7), (336, 336), (335, 673), (1999, 40)]


@pytest.mark.parametrize("size", SIZES)
def test_real_geometry(real: tuple[Any, Any], size: tuple[int, int]) -> None:
    """336 pixels and patches of 14, as in the released models: the processor agrees."""
    model, processor = real
    pixels = torch.zeros(1, 1, 3, 336, 336).expand(1, 6, 3, 336, 336)
    inputs = {"pixel_values": pixels, "image_sizes": torch.tensor([size])}
    # less one for the CLS token, which its strategy drops
    expected = processor._get_number_of_features(*size, 336, 336) - 1
    assert for_model(model, processor).image_lengths(inputs) == [expected]


@pytest.fixture(scope="module")
def real() -> tuple[Any, Any]:
    import transformers

    processor = tiled_processor("llava_next")
    processor.patch_size = 14
    processor.image_processor.image_grid_pinpoints = (
        transformers.LlavaNextConfig().image_grid_pinpoints
    )
    config = tiny_tiled("llava_next")[0].config
    config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints
    config.vision_config.image_size, config.vision_config.patch_size = 336, 14
    return transformers.LlavaNextForConditionalGeneration(config), processor


def test_bad_inputs_are_named(case: NewlineCase) -> None:
    inputs = case.inputs([0], [1])
    backbone = case.backbone
    without = {name: value for name, value in inputs.items() if name != "image_sizes"}
    with pytest.raises(ResPruneError, match="pixel_values came without image_sizes"):
        backbone.encode(without)
    with pytest.raises(ResPruneError, match="takes pixel_values"):
        backbone.image_lengths({**inputs, "pixel_values": inputs["pixel_values"][0]})
    with pytest.raises(ResPruneError, match=r"views of pixel_values have \(14, 14\) pixels"):
        backbone.encode({**inputs, "pixel_values": inputs["pixel_values"][..., :14, :14]})
    with pytest.raises(ResPruneError, match=r"image 0 of size .* takes 5 views"):
        backbone.encode(
            {
                **inputs,
                "image_sizes": torch.tensor([[60, 60], [28, 28]]),
                "pixel_values": inputs["pixel_values"][:, :2],
            }
        )
    with pytest.raises(ResPruneError, match="empty image"):
        backbone.encode({**inputs, "image_sizes": torch.tensor([[0, 5], [28, 28]])})
    with pytest.raises(ResPruneError, match="image_sizes has 1 entries for 2 images"):
        backbone.encode(inputs, image_sizes=[(4, 4)])
    fewer = {name: inputs[name][:1] for name in ("pixel_values", "image_sizes")}
    with (
        resprune.attach(case.model, case.processor, case.config()),
        pytest.raises(ResPruneError, match="image placeholders and the 1 images"),
    ):
        case.model(**{**inputs, **fewer})


def test_what_encode_gave_is_checked(case: NewlineCase) -> None:
    inputs = case.one(0, [0])
    visual = case.backbone.encode(inputs)
    with pytest.raises(ResPruneError, match="kept has 0 entries for 1 images"):
        case.backbone.prepare(inputs, visual, [])
    with pytest.raises(ResPruneError, match="reach from 0 to 99"):
        case.backbone.prepare(inputs, visual, [torch.tensor([0, 99])])
    with pytest.raises(ResPruneError, match="not sorted"):
        case.backbone.prepare(inputs, visual, [torch.tensor([3, 1])])
    with pytest.raises(ResPruneError, match="features have 1 rows for 2 kept tokens"):
        case.backbone.prepare(
            inputs, visual, [torch.tensor([0, 1])], features=[visual[0].tokens[:1]]
        )
    bare = [type(visual[0])(visual[0].tokens)]
    with pytest.raises(ResPruneError, match="extras included"):
        case.backbone.prepare(inputs, bare, [torch.tensor([0])])


def test_a_siglip_tower_offers_received_attention(images: list[Image.Image]) -> None:
    from transformers import LlavaNextForConditionalGeneration, SiglipVisionConfig

    model, processor = tiny_tiled("llava_next")
    model.config.vision_config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=28,
        patch_size=7,
    )
    with pytest.raises(UnsupportedModelError, match="'default' belongs to towers with a CLS"):
        for_model(LlavaNextForConditionalGeneration(model.config), processor)
    model.config.vision_feature_select_strategy = "full"
    processor.vision_feature_select_strategy = "full"
    processor.num_additional_image_tokens = 0
    case = NewlineCase(LlavaNextForConditionalGeneration(model.config).eval(), processor, images)
    inputs = case.inputs([0], [1, 2])
    with pytest.raises(UnsupportedModelError, match="received_attention, l2_norm"):
        case.backbone.encode(inputs, signals=["cls_attention"])
    for visual in case.backbone.encode(inputs, signals=["received_attention"]):
        base = visual.signals["received_attention"][: SIDE**2]
        torch.testing.assert_close(base.sum(), torch.tensor(1.0))
