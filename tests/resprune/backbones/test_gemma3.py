"""Gemma 3: the conformance suite, and what is particular to the family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import resprune
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.boxes import assert_boxes_lie_where_seen, cell_means, ramp_image
from resprune.testing.calls import greedy
from resprune.testing.tiny import tiny_tiled


@dataclass
class BothWaysCase(Case):
    """Kept tokens of an image see each other both ways, inside the window in sliding layers."""

    _image: Tensor = field(init=False, default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def oracle_embeddings(
        self, inputs: Mapping[str, Any], kept: Sequence[Tensor], positions: str
    ) -> tuple[Tensor, Tensor]:
        """Remember which image each vector belongs to, -1 for text."""
        placeholder = inputs["input_ids"][0] == self.backbone.image_token_id
        first = torch.nn.functional.pad(placeholder.long(), (1, 0)).diff() == 1
        chosen = torch.zeros(int(placeholder.sum()), dtype=torch.bool)
        offset = 0
        for keep in kept:
            chosen[offset + keep] = True
            offset += self.model.config.mm_tokens_per_image
        owner = torch.where(placeholder, first.cumsum(dim=0) - 1, -1)
        stays = ~placeholder
        stays[placeholder] = chosen
        self._image = owner[stays]
        return super().oracle_embeddings(inputs, kept, positions)

    def oracle_logits(self, embeddings: Tensor, places: Tensor) -> Tensor:
        """Run the language model with masks made by hand."""
        length = embeddings.shape[1]
        image = torch.full((length,), -1)
        image[: len(self._image)] = self._image
        query, key = torch.arange(length)[:, None], torch.arange(length)[None]
        together = (image[:, None] == image[None]) & (image[:, None] >= 0)
        seen = (key <= query) | together
        near = query - key < self.model.config.text_config.sliding_window
        lowest = torch.finfo(embeddings.dtype).min
        masks = {
            name: torch.where(allowed, 0.0, lowest).to(embeddings.dtype)[None, None]
            for name, allowed in (("full_attention", seen), ("sliding_attention", seen & near))
        }
        hidden = self.language_model()(
            inputs_embeds=embeddings, position_ids=places, attention_mask=masks, use_cache=False
        ).last_hidden_state
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return tiny_tiled("gemma3", folder=tmp_path_factory.mktemp("gemma3"))


class TestConformance(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, made: tuple[Any, Any], images: list[Image.Image]) -> Case:
        return BothWaysCase(*made, images, refused_sizes=(), decodes_after_right_padding=False)


@pytest.fixture(scope="module")
def case(made: tuple[Any, Any], images: list[Image.Image]) -> BothWaysCase:
    return BothWaysCase(*made, images, refused_sizes=(), decodes_after_right_padding=False)


def test_received_attention_equals_eager(images: list[Image.Image]) -> None:
    case = BothWaysCase(*tiny_tiled("gemma3", seed=1), images)
    inputs = case.inputs([0], [1, 2], [])
    found = case.backbone.encode(inputs, signals=["received_attention"])
    tower = case.model.model.vision_tower
    assert tower.config._attn_implementation == "sdpa"
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        attention = tower(inputs["pixel_values"], output_attentions=True).attentions[-1]
    cells = attention.mean(dim=(1, 2)).view(-1, 6, 6)
    expected = cells.unfold(1, 2, 2).unfold(2, 2, 2).sum(dim=(-1, -2)).flatten(1)
    signal = torch.stack([visual.signals["received_attention"] for visual in found])
    torch.testing.assert_close(signal, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(signal.sum(dim=1), torch.ones(3))


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (24, 24), (200, 27)])
def test_boxes_lie_where_the_processor_looked(case: BothWaysCase, size: tuple[int, int]) -> None:
    pixels = case.processor.image_processor(
        images=[ramp_image(*size)], do_normalize=False, return_tensors="pt"
    )
    visual = case.backbone.encode(dict(pixels), image_sizes=[size])[0]
    assert visual.grid == (3, 3)
    assert_boxes_lie_where_seen(visual, cell_means(pixels["pixel_values"], 8)[0], size)


def test_images_of_a_batch_may_keep_different_counts(case: BothWaysCase) -> None:
    """One token an entry: the model wants a tensor, and beams are cut at the rows' bounds."""
    inputs = case.inputs([0], [1, 3])
    visual = case.backbone.encode(inputs)
    kept = [torch.tensor(own) for own in ([1, 4], [0, 2, 3, 5, 8], [1, 2, 3, 4, 5, 7, 8])]
    prepared = case.backbone.prepare(inputs, visual, kept)
    packed = prepared.kwargs["mm_encoder_outputs"]["image"].pooler_output
    assert packed.shape == (14, 1, case.backbone.width)
    together = greedy(case.model, prepared.kwargs, num_beams=3)[:, -4:].tolist()
    for row, (used, own) in enumerate((([0], kept[:1]), ([1, 3], kept[1:]))):
        single = case.one(row, used)
        alone = case.backbone.prepare(single, case.backbone.encode(single), own)
        assert greedy(case.model, alone.kwargs, num_beams=3)[:, -4:].tolist() == [together[row]]


def test_token_types_are_derived(case: BothWaysCase) -> None:
    """Without them the model would attend forward only inside an image."""
    inputs = case.inputs([0], [])
    visual = case.backbone.encode(inputs)
    kept = [torch.tensor([0, 3, 4])]
    expected = case.backbone.prepare(inputs, visual, kept).kwargs["token_type_ids"]
    assert int(expected.sum()) == 3
    bare = {name: value for name, value in inputs.items() if name != "token_type_ids"}
    assert torch.equal(case.backbone.prepare(bare, visual, kept).kwargs["token_type_ids"], expected)


def test_norms_of_nouns_are_those_of_the_table(case: BothWaysCase) -> None:
    """The model scales embeddings as it reads them."""
    ids = case.processor.tokenizer(" dog", add_special_tokens=False)["input_ids"]
    table = case.model.get_input_embeddings().weight.detach()
    expected = table[ids].mean(dim=0).norm() / table.norm(dim=1).mean()
    assert case.backbone.noun_rarity("the dog", [(4, 7)])[1] == [
        pytest.approx(float(expected), rel=1e-5)
    ]


def test_sliding_windows_count_padding_unpruned_too(case: BothWaysCase) -> None:
    """Why decoding by hand after right padding is left out of the suite: the model's own doing."""
    found = []
    for side in ("left", "right"):
        inputs = case.inputs([0], [1, 2], side=side)
        mask = inputs["attention_mask"]
        with torch.no_grad():
            output = case.model(**case.positioned(inputs))
            mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
            step = case.model(
                input_ids=torch.full((2, 1), 9),
                attention_mask=mask,
                position_ids=mask.sum(dim=1, keepdim=True) - 1,
                past_key_values=output.past_key_values,
            )
        found.append(step.logits[:, -1])
    torch.testing.assert_close(found[0][1], found[1][1])  # the longest row has no padding
    assert float((found[0][0] - found[1][0]).abs().max()) > 1e-2


def test_crops_of_pan_and_scan_are_images_of_their_own(case: BothWaysCase) -> None:
    text = case.backbone.chat_prompt("What is it?")
    inputs = dict(
        case.processor(
            text=[text],
            images=[[ramp_image(30, 90)]],
            do_pan_and_scan=True,
            pan_and_scan_min_crop_size=8,
            return_tensors="pt",
        )
    )
    views = len(inputs["pixel_values"])
    assert views > 1
    with resprune.attach(case.model, case.processor, case.config(4)) as attachment:
        greedy(case.model, inputs)
        assert attachment.last is not None
        assert [len(keep) for keep in attachment.last.kept] == [4] * views
    with pytest.raises(ResPruneError, match=f"image_sizes has 1 entries for {views} images"):
        case.backbone.encode(inputs, image_sizes=[(30, 90)])


def test_bad_inputs_are_named(case: BothWaysCase) -> None:
    inputs = case.inputs([0], [1])
    with pytest.raises(ResPruneError, match="use the model's own processor"):
        case.backbone.encode({**inputs, "pixel_values": inputs["pixel_values"][..., :20]})
    with pytest.raises(UnsupportedModelError, match="strategies: received_attention, l2_norm"):
        case.backbone.encode(inputs, signals=["cls_attention"])
    with (
        resprune.attach(case.model, case.processor, case.config()),
        pytest.raises(ResPruneError, match="18 image placeholders and the 1 images 9"),
    ):
        case.model(**{**inputs, "pixel_values": inputs["pixel_values"][:1]})
    assert case.backbone.image_counts(inputs["input_ids"]) == [1, 1]
