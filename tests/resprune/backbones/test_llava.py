"""LLaVA-1.5: the conformance suite, and what is particular to the family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resprune.backbones import for_model
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.tiny import tiny_llava


class TestConformance(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, tiny_llava: tuple[Any, Any], images: list[Image.Image]) -> Case:
        model, processor = tiny_llava
        return Case(model, processor, images)


@pytest.mark.parametrize(("layer", "attention"), [(-2, -2), (-1, -1), (1, 0), ([-3, -1], -1)])
def test_cls_attention_equals_eager(layer: int | list[int], attention: int) -> None:
    model, processor = tiny_llava(vision_feature_layer=layer)
    assert model.model.vision_tower.config._attn_implementation == "sdpa"
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    backbone = for_model(model, processor)
    found = backbone.encode({"pixel_values": pixels}, signals=["cls_attention"])

    model.model.vision_tower.set_attn_implementation("eager")
    with torch.no_grad():
        output = model.model.vision_tower(pixels, output_attentions=True)
    expected = output.attentions[attention].mean(dim=1)[:, 0, 1:]
    torch.testing.assert_close(
        torch.stack([image.signals["cls_attention"] for image in found]),
        expected,
        atol=1e-6,
        rtol=0,
    )


def test_hooks_are_removed_after_a_failing_tower(tiny_llava: tuple[Any, Any]) -> None:
    model, processor = tiny_llava
    backbone = for_model(model, processor)
    with pytest.raises(ValueError, match="doesn't match model"):
        backbone.encode({"pixel_values": torch.zeros(1, 3, 42, 42)}, signals=["cls_attention"])
    for layer in model.model.vision_tower.encoder.layers:
        assert not layer.self_attn.q_proj._forward_hooks
        assert not layer.self_attn.k_proj._forward_hooks


def test_tokens_are_the_models_own(tiny_llava: tuple[Any, Any]) -> None:
    model, processor = tiny_llava
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    found = for_model(model, processor).encode({"pixel_values": pixels})
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
        expected = model.model.multi_modal_projector(states[:, 1:])
    torch.testing.assert_close(torch.stack([image.tokens for image in found]), expected)
    assert not any(image.tokens.requires_grad for image in found)
    assert found[0].signals == {}
    assert found[0].boxes is None


def test_no_images_is_no_tokens(tiny_llava: tuple[Any, Any]) -> None:
    assert for_model(*tiny_llava).encode({}) == []


def test_non_finite_features_name_the_image(tiny_llava: tuple[Any, Any]) -> None:
    pixels = torch.zeros(3, 3, 28, 28)
    pixels[1, 0, 0, 0] = torch.inf
    with pytest.raises(ResPruneError, match=r"image 1 of this batch .* not finite"):
        for_model(*tiny_llava).encode({"pixel_values": pixels})


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (28, 28), (300, 29), (15, 11)])
def test_boxes_lie_where_the_processor_looked(
    tiny_llava: tuple[Any, Any], size: tuple[int, int]
) -> None:
    """A ramp of brightness along each axis shows which pixels a cell was made from."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    ramps = np.stack([255 * (x + 0.5) / width, 255 * (y + 0.5) / height, 0 * x], axis=-1)
    image = Image.fromarray(ramps.round().astype(np.uint8))
    model, processor = tiny_llava
    pixels = processor.image_processor(images=[image], do_normalize=False, return_tensors="pt")
    visual = for_model(model, processor).encode(dict(pixels), image_sizes=[size])[0]
    cells = pixels["pixel_values"][0, :2].unfold(1, 7, 7).unfold(2, 7, 7).mean(dim=(-1, -2))
    seen = cells.flatten(1).T * torch.tensor([width, height])
    assert visual.boxes is not None
    centres = torch.stack(
        [visual.boxes[:, [0, 2]].mean(dim=1), visual.boxes[:, [1, 3]].mean(dim=1)], dim=1
    )
    # within a quarter of a cell: resampling blurs, and bytes round
    cell = visual.boxes[0, 2:] - visual.boxes[0, :2]
    assert bool(((seen - centres).abs() <= 0.25 * cell).all())


def test_boxes_of_padding_lie_outside() -> None:
    """A crop larger than the image pads it."""
    model, processor = tiny_llava()
    processor.image_processor.do_resize = False
    pixels = processor.image_processor(images=[Image.new("RGB", (14, 14))], return_tensors="pt")
    visual = for_model(model, processor).encode(dict(pixels), image_sizes=[(14, 14)])[0]
    assert visual.boxes is not None
    assert visual.boxes[0].tolist() == [-7, -7, 0, 0]
    assert visual.boxes[5].tolist() == [0, 0, 7, 7]


def test_sub_words_are_pooled_in_context(tiny_llava: tuple[Any, Any]) -> None:
    model, processor = tiny_llava
    backbone = for_model(model, processor)
    question = "Is the zebra near the dog?"
    spans = [(7, 12), (22, 25)]
    found = backbone.noun_embeddings(question, spans)
    ids = processor.tokenizer(question, add_special_tokens=False)["input_ids"]
    pieces = processor.tokenizer.convert_ids_to_tokens(ids)
    table = model.get_input_embeddings().weight
    # byte-level pieces spell the question out, one character a byte here
    ends = np.cumsum([len(piece) for piece in pieces])
    for row, (start, end) in enumerate(spans):
        inside = [
            token
            for token, piece, stop in zip(ids, pieces, ends, strict=True)
            if stop > start and stop - len(piece.lstrip("Ġ")) < end
        ]
        torch.testing.assert_close(found[row], table[inside].mean(dim=0))
    assert backbone.noun_embeddings(question, []).shape == (0, backbone.width)


def test_rarity(tiny_llava: tuple[Any, Any]) -> None:
    model, processor = tiny_llava
    backbone = for_model(model, processor)
    ranks, norms = backbone.noun_rarity("the dog", [(4, 7)])
    ids = processor.tokenizer(" dog", add_special_tokens=False)["input_ids"]
    table = model.get_input_embeddings().weight.detach()
    assert ranks == [pytest.approx(np.mean(ids) / len(table))]
    expected = table[ids].mean(dim=0).norm() / table.norm(dim=1).mean()
    assert norms == [pytest.approx(float(expected), rel=1e-5)]


def test_image_counts(tiny_llava: tuple[Any, Any]) -> None:
    backbone = for_model(*tiny_llava)
    image = backbone.image_token_id
    ids = torch.tensor([[image] * 32, [5] * 16 + [image] * 16, [5] * 32])
    assert backbone.image_counts(ids) == [2, 1, 0]
    with pytest.raises(ResPruneError, match="row 0 of input_ids has 15"):
        backbone.image_counts(ids[:1, :15])


def test_another_feature_strategy_is_refused() -> None:
    model, processor = tiny_llava()
    model.config.vision_feature_select_strategy = "full"
    with pytest.raises(UnsupportedModelError, match="'default' belongs to towers with a CLS"):
        for_model(model, processor)


def test_embedding_state_has_no_attention() -> None:
    model, processor = tiny_llava(vision_feature_layer=0)
    backbone = for_model(model, processor)
    with pytest.raises(UnsupportedModelError, match="names no attention layer"):
        backbone.encode({"pixel_values": torch.zeros(1, 3, 28, 28)}, signals=["cls_attention"])


@pytest.fixture(scope="module")
def siglip() -> tuple[Any, Any]:
    return tiny_llava(tower="siglip")


class TestSiglipConformance(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, siglip: tuple[Any, Any], images: list[Image.Image]) -> Case:
        return Case(*siglip, images, refused_sizes=())  # nothing at all is shown as black


@pytest.mark.parametrize(("layer", "attention"), [(-2, -2), (-1, -1), ([1, -2], 1)])
def test_siglip_received_attention_equals_eager(layer: int | list[int], attention: int) -> None:
    model, processor = tiny_llava(tower="siglip", vision_feature_layer=layer)
    backbone = for_model(model, processor)
    assert backbone.seed_signals == ("received_attention",)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    found = backbone.encode({"pixel_values": pixels}, signals=["received_attention"])

    tower = model.model.vision_tower
    assert tower.config._attn_implementation == "sdpa"
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        weights = tower(pixels, output_attentions=True).attentions[attention]
    torch.testing.assert_close(
        torch.stack([image.signals["received_attention"] for image in found]),
        weights.mean(dim=(1, 2)),
        atol=1e-6,
        rtol=0,
    )
    with pytest.raises(UnsupportedModelError, match=r"no 'cls_attention' .*received_attention"):
        backbone.encode({"pixel_values": pixels}, signals=["cls_attention"])
