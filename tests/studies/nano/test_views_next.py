"""Wide scenes and their views, against the processor, the backbone and the model's own forward."""

import pytest
import torch

from studies.nano.data import patch_features
from studies.nano.families import vision_of
from studies.nano.models.llava_next import (
    BUDGETS,
    build_model,
    build_processor,
    encode,
    predict_kept,
)
from studies.nano.packing import pack
from studies.nano.processor import chat
from studies.nano.questions import generate_questions
from studies.nano.scenes import GRID, LANDSCAPE, PORTRAIT, generate_wide_scene
from studies.nano.views import TOKENS, cut_views, layout_of, place_tokens, view_targets

SEEDS = (0, 1)  # landscape, portrait


@pytest.fixture(scope="module")
def loaded():
    return build_model(3).eval(), build_processor()


def test_scenes_are_twice_as_wide_or_as_high_and_no_object_lies_across_the_middle():
    for seed in range(40):
        scene = generate_wide_scene(seed)
        assert scene.canvas == (PORTRAIT if seed % 2 else LANDSCAPE)
        assert scene.image.size == scene.canvas.size
        assert scene == generate_wide_scene(seed)
        assert 4 <= len(scene.objects) <= 12
        for o in scene.objects:
            assert {o.column % GRID, o.row % GRID} <= set(range(1, GRID - 1))
    both = [{o.column // GRID for o in generate_wide_scene(s).objects} for s in range(0, 20, 2)]
    assert {0, 1} in both


@pytest.mark.parametrize("seed", SEEDS)
def test_views_are_those_of_the_processor(loaded, seed):
    scene = generate_wide_scene(seed)
    wanted = loaded[1].image_processor([scene.image], return_tensors="pt")["pixel_values"][0]
    found = torch.from_numpy(cut_views(scene.image)).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_targets_lie_where_the_pixels_are(seed):
    """Tile labels against the canvas' labels by coordinates; no mark or digit in the base view."""
    scene = generate_wide_scene(seed)
    base, *tiles = view_targets(scene).reshape(3, GRID, GRID, 5)
    rows, columns = scene.canvas.grid
    labels = scene.patch_labels.reshape(rows, columns, 3)
    assert (base[..., 2] == -1).all()
    assert (base[..., 4] == 0).all()
    for o in scene.objects:
        tile = tiles[max(o.row // GRID, o.column // GRID)][o.row % GRID, o.column % GRID]
        assert (tile[:3] == labels[o.row, o.column]).all()
        assert tile[4] == 1
        assert scene.objects[tile[3]] == o
        row, column = o.row * GRID // rows, o.column * GRID // columns
        near = base[row, max(column - 1, 0) : column + 2]
        near = near if columns > rows else base[max(row - 1, 0) : row + 2, column]
        assert list(tile[:2]) in near[:, :2].tolist()
    assert sum(int(t[..., 4].sum()) for t in tiles) == len(scene.objects)


@torch.no_grad()
@pytest.mark.parametrize("seed", SEEDS)
def test_the_layout_is_that_of_the_backbone(loaded, seed):
    from resprune import backbones

    model, processor = loaded
    scene = generate_wide_scene(seed)
    prompt = processor.apply_chat_template(chat("Is there a star?"), add_generation_prompt=True)
    inputs = dict(processor(images=scene.image, text=prompt, return_tensors="pt"))
    signal = "cls_attention"
    (wanted,) = backbones.for_model(model, processor).encode(inputs, signals=[signal])
    tokens, attention = encode(model, [seed])
    assert torch.allclose(tokens[0], wanted.tokens, atol=1e-5)
    assert torch.allclose(attention[0], wanted.signals[signal], atol=1e-5)
    layout = layout_of(scene.canvas)
    assert torch.equal(layout.newlines, wanted.extras["newlines"])
    views = torch.from_numpy(cut_views(scene.image)).permute(0, 3, 1, 2).float() / 127.5 - 1
    features = patch_features(vision_of(model), views).flatten(0, 1)[layout.source]
    assert torch.allclose(model.model.multi_modal_projector(features), tokens[0], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("budget", [TOKENS, BUDGETS[1]])
def test_predictions_are_those_of_the_model_and_of_pruning_it(loaded, budget):
    """Mixed canvases; the logits of `predict_kept` against resprune's pruned forward."""
    from resprune import backbones

    model, processor = loaded
    backbone = backbones.for_model(model, processor)
    asked = [generate_questions(generate_wide_scene(seed), seed, 1)[0] for seed in SEEDS]
    tokens, _ = encode(model, SEEDS)
    rng = torch.Generator().manual_seed(0)
    kept = torch.stack([torch.randperm(TOKENS, generator=rng)[:budget] for _ in SEEDS])
    kept = kept.sort(1).values
    chosen = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
    found = predict_kept(model, chosen, kept, SEEDS, pack([[q] for q in asked]))
    for row, (seed, question) in enumerate(zip(SEEDS, asked, strict=True)):
        prompt = processor.apply_chat_template(chat(question.text), add_generation_prompt=True)
        image = generate_wide_scene(seed).image
        inputs = dict(processor(images=image, text=prompt, return_tensors="pt"))
        visual = backbone.encode(inputs)
        logits = model(**backbone.prepare(inputs, visual, [kept[row]]).kwargs).logits[0, -1]
        if budget == TOKENS:
            assert torch.allclose(model(**inputs).logits[0, -1], logits, atol=1e-3)
        assert torch.allclose(found.answer_logits[row, 0], logits, atol=1e-3)


def test_kept_tokens_keep_their_places_and_newlines_stay_only_when_all_are_kept():
    for canvas in (LANDSCAPE, PORTRAIT):
        rows, columns = canvas.grid
        tokens = torch.arange(TOKENS).float()[None, :, None]
        every = torch.arange(TOKENS)[None]
        placed, places, ends = place_tokens(tokens, torch.tensor([-1.0]), [canvas], every)
        assert ends.tolist() == [GRID * GRID + rows * (columns + 1)]
        assert torch.equal(places, torch.arange(int(ends))[None])
        canvas_part = placed[0, GRID * GRID :, 0].reshape(rows, columns + 1)
        assert (canvas_part[:, -1] == -1).all()
        assert torch.equal(canvas_part[:, :-1].flatten(), torch.arange(196, TOKENS).float())
        some = torch.tensor([[3, 196, 196 + columns]])
        placed, places, _ = place_tokens(tokens[:, some[0]], torch.tensor([-1.0]), [canvas], some)
        assert places.tolist() == [[3, 196, 196 + columns + 1]]
        assert placed[0, :, 0].tolist() == some[0].tolist()
