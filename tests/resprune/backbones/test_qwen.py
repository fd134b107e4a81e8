"""The Qwen families: the conformance suite, and what is particular to them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import resprune
from resprune.backbones import Backbone, for_model
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.testing.backbones import BackboneConformance, Case
from resprune.testing.calls import greedy, new_tokens
from resprune.testing.mrope import MropeCase
from resprune.testing.tiny import tiny_qwen
from resprune.testing.tiny.qwen import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore:.*loaded for images only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processors")


@pytest.fixture(scope="module")
def cases(images: list[Image.Image], folder: Path) -> dict[str, MropeCase]:
    """One case a family; its processor saved and loaded."""
    return {
        family: MropeCase(
            *tiny_qwen(family, folder=folder / family), images, refused_sizes=((0, 0), (402, 2))
        )
        for family in FAMILIES
    }


@pytest.fixture(params=FAMILIES)
def any_case(request: pytest.FixtureRequest, cases: dict[str, MropeCase]) -> MropeCase:
    return cases[request.param]


class TestQwen2VL(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, cases: dict[str, MropeCase]) -> Case:
        return cases["qwen2_vl"]


class TestQwen25VL(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, cases: dict[str, MropeCase]) -> Case:
        return cases["qwen2_5_vl"]


class TestQwen3VL(BackboneConformance):
    @pytest.fixture(scope="class")
    def case(self, cases: dict[str, MropeCase]) -> Case:
        return cases["qwen3_vl"]


# -- the family and its signal ----------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_is_chosen_from_the_model(family: str, cases: dict[str, MropeCase]) -> None:
    backbone = cases[family].backbone
    assert backbone.family == family
    assert backbone.visual_tokens is None
    assert backbone.width == 32
    with pytest.raises(ResPruneError, match="vary by image"):
        backbone.image_counts(torch.zeros(1, 3, dtype=torch.long))


def _raster(grid: tuple[int, int], window: int) -> list[int]:
    """For each merged token in raster order, its place in window order."""
    rows, columns = grid
    order = [
        (row, column)
        for top in range(0, rows, window)
        for left in range(0, columns, window)
        for row in range(top, min(top + window, rows))
        for column in range(left, min(left + window, columns))
    ]
    return [order.index((row, column)) for row in range(rows) for column in range(columns)]


def test_received_attention_equals_the_models_own(
    any_case: MropeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the weights that eager attention makes in the last block with full attention."""
    case = any_case
    inputs = case.inputs([0], [1, 2, 3])
    found = case.backbone.encode(inputs, signals=["received_attention"])
    model = case.model
    assert model.model.visual.config._attn_implementation == "sdpa"
    module = sys.modules[type(model).__module__]
    original, weights = module.eager_attention_forward, []

    def eager(attention: Any, *args: Any, **kwargs: Any) -> Any:
        output, seen = original(attention, *args, **kwargs)
        weights.append((attention, seen))
        return output, seen

    monkeypatch.setattr(module, "eager_attention_forward", eager)
    monkeypatch.setattr(model.model.visual.config, "_attn_implementation_internal", "eager")
    case.backbone.encode(inputs)
    windows = case.backbone.family == "qwen2_5_vl"
    block = model.model.visual.blocks[1 if windows else 2].attn
    mine = [seen[0] for attention, seen in weights if attention is block]
    assert len(mine) == len(found) == 4
    for image, seen in zip(found, mine, strict=True):
        expected = seen.mean(dim=(0, 1)).view(-1, 4).sum(dim=1)
        if windows:
            expected = expected[_raster(image.grid, 2)]
        torch.testing.assert_close(
            image.signals["received_attention"], expected, atol=1e-6, rtol=1e-5
        )
        assert expected.std() > 1e-3  # a constant would show nothing


def test_received_attention_in_chunks(
    cases: dict[str, MropeCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases["qwen2_5_vl"]
    inputs = case.inputs([0, 1])
    whole = case.backbone.encode(inputs, signals=["received_attention"])
    monkeypatch.setattr("resprune.backbones._received._CHUNK_SCORES", 1000)
    parts = case.backbone.encode(inputs, signals=["received_attention"])
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a.signals["received_attention"], b.signals["received_attention"])


def test_hooks_are_removed_after_a_failing_tower(any_case: MropeCase) -> None:
    inputs = any_case.inputs([0])
    inputs["pixel_values"] = inputs["pixel_values"][:, :5]
    with pytest.raises(RuntimeError):
        any_case.backbone.encode(inputs, signals=["received_attention"])
    for block in any_case.model.model.visual.blocks:
        assert not block.attn._forward_pre_hooks
        assert not block.attn.qkv._forward_hooks


def test_cls_attention_says_what_to_use_instead(any_case: MropeCase) -> None:
    message = r"no 'cls_attention' signal.*received_attention, l2_norm"
    with pytest.raises(UnsupportedModelError, match=message):
        any_case.backbone.encode(any_case.inputs([0]), signals=["cls_attention"])
    config = resprune.PruningConfig.single(4, seed_strategy="cls_attention")
    with pytest.raises(UnsupportedModelError, match=message):
        resprune.attach(any_case.model, any_case.processor, config)


def test_a_tower_of_windows_alone_has_no_signal() -> None:
    model, processor = tiny_qwen("qwen2_5_vl")
    model.model.visual.fullatt_block_indexes = []
    assert for_model(model, processor).seed_signals == ()


def test_tokens_are_the_models_own(any_case: MropeCase) -> None:
    inputs = any_case.inputs([0], [1, 2])
    with torch.no_grad():
        expected = any_case.model.get_image_features(
            inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
        )
    found = any_case.backbone.encode(inputs)
    for image, own in zip(found, expected.pooler_output, strict=True):
        assert torch.equal(image.tokens, own)
        assert image.boxes is None
    if any_case.backbone.family == "qwen3_vl":
        assert torch.equal(found[1].extras["deepstack"][:, 1], expected.deepstack_features[1][1])
    assert any_case.backbone.image_lengths(inputs) == [len(image.tokens) for image in found]
    assert any_case.backbone.encode({}) == []
    assert any_case.backbone.image_lengths({}) == []


@pytest.mark.parametrize("size", [(40, 60), (64, 33), (1, 1), (9, 300)])
def test_boxes_lie_where_the_processor_looked(
    cases: dict[str, MropeCase], size: tuple[int, int]
) -> None:
    """A ramp of brightness along each axis shows which pixels a cell was made from."""
    case = cases["qwen2_5_vl"]
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    ramps = np.stack([255 * (x + 0.5) / width, 255 * (y + 0.5) / height, 0 * x], axis=-1)
    image = Image.fromarray(ramps.round().astype(np.uint8))
    inputs = dict(
        case.processor.image_processor(images=[image], do_normalize=False, return_tensors="pt")
    )
    visual = case.backbone.encode(inputs, image_sizes=[size])[0]
    # patches of merged token i are rows 4 i to 4 i + 3; channels, time and pixels lie in a row
    seen = inputs["pixel_values"].view(-1, 4, 3, 2, 4, 4).mean(dim=(1, 3, 4, 5))[:, :2]
    seen = seen * torch.tensor([width, height])
    assert visual.boxes is not None
    assert visual.boxes[-1, 2:].tolist() == pytest.approx([width, height])
    assert visual.boxes[0, :2].tolist() == [0, 0]
    centres = torch.stack(
        [visual.boxes[:, [0, 2]].mean(dim=1), visual.boxes[:, [1, 3]].mean(dim=1)], dim=1
    )
    cell = visual.boxes[0, 2:] - visual.boxes[0, :2]
    # bicubic resampling overshoots at the edges, and where an image is enlarged its pixels show
    slack = 0.25 * cell + (0.5 if min(size) < 16 else 0.0)
    assert bool(((seen - centres).abs() <= slack).all())


# -- whole use ----------------------------------------------------------------------------------


def test_a_ratio_counts_for_each_image(any_case: MropeCase) -> None:
    inputs = any_case.inputs([0], [], [1, 2])
    with resprune.attach(any_case.model, any_case.processor, any_case.config(0.5)) as attachment:
        greedy(any_case.model, inputs)
    assert attachment.last is not None
    assert attachment.last.visual_tokens == [12, 16, 10]
    assert [len(kept) for kept in attachment.last.kept] == [6, 8, 5]
    assert attachment.last.grids == [(3, 4), (4, 4), (5, 2)]


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_a_loop_with_a_cache_alone_goes_on_from_the_right_place(
    any_case: MropeCase, positions: str
) -> None:
    """The model's own memory of the prompt (``rope_deltas``) is that of the shortened one."""
    case = any_case
    inputs = case.one(0, [0, 1])
    with (
        torch.no_grad(),
        resprune.attach(case.model, case.processor, case.config(positions=positions)),
    ):
        expected = greedy(case.model, inputs, return_dict_in_generate=True, output_logits=True)
        case.model.model.rope_deltas = None
        output = case.model(**inputs)
        for logits in expected.logits:
            difference = (output.logits[:, -1] - logits).abs().max()
            assert difference <= 1e-5 * logits.abs().max()
            output = case.model(
                input_ids=output.logits[:, -1].argmax(dim=-1, keepdim=True),
                past_key_values=output.past_key_values,
            )


def test_token_types_may_be_absent(any_case: MropeCase) -> None:
    """They are derived from the ids; the unpruned model raises or takes other positions."""
    inputs = any_case.inputs([0], [1, 2])
    bare = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    with resprune.attach(any_case.model, any_case.processor, any_case.config()), torch.no_grad():
        assert torch.equal(greedy(any_case.model, inputs), greedy(any_case.model, bare))
        assert torch.equal(any_case.model(**inputs).logits, any_case.model(**bare).logits)


@pytest.mark.parametrize("rows", [3, 4])
def test_the_callers_positions_are_kept(any_case: MropeCase, rows: int) -> None:
    case = any_case
    inputs = case.inputs([0], [1, 2])
    plain, _ = case.model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    given = torch.cat([plain[:1], plain])[-rows:]
    visual = case.backbone.encode(inputs)
    kept = [torch.arange(0, len(image.tokens), 2) for image in visual]
    expected = case.backbone.prepare(inputs, visual, kept).kwargs["position_ids"]
    found = case.backbone.prepare({**inputs, "position_ids": given}, visual, kept)
    assert torch.equal(found.kwargs["position_ids"], expected)
    shifted = case.backbone.prepare({**inputs, "position_ids": given + 7}, visual, kept)
    mask = shifted.kwargs["attention_mask"].bool()
    assert torch.equal(shifted.kwargs["position_ids"][1:, mask], expected[1:, mask] + 7)
    with pytest.raises(ResPruneError, match=r"position_ids have shape \(2, 2, "):
        case.backbone.prepare({**inputs, "position_ids": given[:2]}, visual, kept)


@pytest.mark.parametrize(
    "options",
    [{"prompt_lookup_num_tokens": 2}, {"prefill_chunk_size": 4}, {"num_beams": 2, "top_k": 3}],
    ids=["assisted", "chunked", "beam-sampling-options"],
)
def test_ways_to_generate(any_case: MropeCase, options: dict[str, Any]) -> None:
    inputs = any_case.one(0, [0, 1])
    if "num_beams" not in options:
        with resprune.attach(any_case.model, any_case.processor, any_case.config()):
            expected = greedy(any_case.model, inputs)
            assert torch.equal(greedy(any_case.model, inputs, **options), expected)
        return
    with resprune.attach(any_case.model, any_case.processor, any_case.config(1.0)):
        torch.manual_seed(1)
        found = any_case.model.generate(**inputs, max_new_tokens=3, do_sample=True, **options)
    torch.manual_seed(1)
    expected = any_case.model.generate(**inputs, max_new_tokens=3, do_sample=True, **options)
    assert torch.equal(found, expected)


def test_videos_pass_through_with_a_warning(any_case: MropeCase) -> None:
    case = any_case
    backbone = case.backbone
    tokenizer = case.processor.tokenizer
    frames = "<|vision_start|>" + "<|video_pad|>" * 4 + "<|vision_end|>"
    times = 1 if backbone.family == "qwen2_vl" else 2
    if backbone.family == "qwen3_vl":
        prompt = "<|im_start|>user\n" + frames * times + "What is it?<|im_end|>\n"
    else:
        prompt = "<|im_start|>user\n" + frames.replace(
            "<|video_pad|>" * 4, "<|video_pad|>" * 4 * times
        )
        prompt += "What is it?<|im_end|>\n"
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": 2 * (ids == case.processor.video_token_id).long(),
        "pixel_values_videos": torch.randn(16 * times, 96, generator=generator),
        "video_grid_thw": torch.tensor([[times, 4, 4]]),
    }
    expected = greedy(case.model, inputs)
    with (
        resprune.attach(case.model, case.processor, case.config()) as attachment,
        pytest.warns(UserWarning, match="video, which passes through unpruned"),
    ):
        found = greedy(case.model, inputs)
    assert torch.equal(found, expected)
    assert attachment.last is not None
    assert not attachment.last.pruned
    with pytest.raises(ResPruneError, match="prompt with a video cannot be shortened"):
        backbone.prepare(inputs, [], [])


# -- refused --------------------------------------------------------------------------------------


def _encoded(case: MropeCase, *rows: list[int]) -> tuple[dict[str, Any], list[Any], list[Tensor]]:
    inputs = case.inputs(*rows)
    visual = case.backbone.encode(inputs)
    return inputs, visual, [torch.arange(len(image.tokens)) for image in visual]


def test_images_without_text_between_are_refused(cases: dict[str, MropeCase]) -> None:
    case = cases["qwen2_5_vl"]
    inputs, visual, kept = _encoded(case, [0, 1])
    ids = inputs["input_ids"][0]
    image = case.backbone.image_token_id
    runs = (ids == image).nonzero()[:, 0]
    between = (torch.arange(len(ids)) > runs[0]) & (torch.arange(len(ids)) < runs[-1])
    joined = ids[~(between & (ids != image))][None]
    with pytest.raises(ResPruneError, match=r"images of \[12, 16\] .* runs of \[28\]"):
        case.backbone.prepare({"input_ids": joined}, visual, kept)


def test_a_masked_image_is_refused(cases: dict[str, MropeCase]) -> None:
    case = cases["qwen2_vl"]
    inputs, visual, kept = _encoded(case, [0])
    mask = inputs["attention_mask"].clone()
    mask[0, (inputs["input_ids"][0] == case.backbone.image_token_id).nonzero()[0, 0]] = 0
    with pytest.raises(ResPruneError, match=r"runs of \[11\]"):
        case.backbone.prepare({**inputs, "attention_mask": mask}, visual, kept)


def test_pixels_need_their_grid(cases: dict[str, MropeCase]) -> None:
    case = cases["qwen2_5_vl"]
    inputs = case.inputs([0])
    grid = inputs.pop("image_grid_thw")
    with pytest.raises(ResPruneError, match="without image_grid_thw"):
        case.backbone.encode(inputs)
    with pytest.raises(ResPruneError, match="stands for 96 patches and pixel_values have 48"):
        case.backbone.encode({**inputs, "image_grid_thw": grid.repeat(2, 1)})
    with pytest.raises(ResPruneError, match=r"\[\[2, 3, 8\]\]"):
        case.backbone.encode({**inputs, "image_grid_thw": torch.tensor([[2, 3, 8]])})
    with pytest.raises(ResPruneError, match="image_sizes has 2 entries for 1 images"):
        case.backbone.encode({**inputs, "image_grid_thw": grid}, image_sizes=[(40, 60), (40, 60)])


def test_deepstack_features_are_needed(cases: dict[str, MropeCase]) -> None:
    case = cases["qwen3_vl"]
    inputs, visual, kept = _encoded(case, [0])
    bare = [resprune.backbones.VisualTokens(visual[0].tokens, grid=visual[0].grid)]
    with pytest.raises(ResPruneError, match="without the 2 deepstack features"):
        case.backbone.prepare(inputs, bare, kept)
    with pytest.raises(ResPruneError, match=r"12 visual tokens and the grid \(0, 0\)"):
        case.backbone.prepare(inputs, [resprune.backbones.VisualTokens(visual[0].tokens)], kept)


def test_an_extreme_aspect_ratio_is_refused_by_the_processor(cases: dict[str, MropeCase]) -> None:
    case = cases["qwen2_5_vl"]
    with pytest.raises(ValueError, match="aspect ratio must be smaller than 200"):
        case.process(
            [case.backbone.chat_prompt("What is it?")], [[Image.new("RGB", (402, 2))]], "left"
        )


def test_a_tiny_image_works(any_case: MropeCase) -> None:
    image = Image.new("RGB", (1, 1))
    inputs = any_case.process([any_case.backbone.chat_prompt("What is it?")], [[image]], "left")
    with resprune.attach(any_case.model, any_case.processor, any_case.config(0.01)) as attachment:
        answer = new_tokens(greedy(any_case.model, inputs), inputs)
    assert attachment.last is not None
    assert attachment.last.visual_tokens == [4]
    assert [len(kept) for kept in attachment.last.kept] == [1]
    assert len(answer[0]) == 4


def test_the_system_text_is_no_question(any_case: MropeCase) -> None:
    backbone: Backbone = any_case.backbone
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "Always mention the sky."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which dog?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "The table."}]},
        {"role": "user", "content": [{"type": "text", "text": "And the circle?"}]},
    ]
    text = any_case.processor.apply_chat_template(turns, add_generation_prompt=True)
    inputs = any_case.process([text], [[any_case.images[0]]], "left")
    assert backbone.question(inputs["input_ids"][0]) == "And the circle?"
