"""Encoder outputs in the run folder: reused, keyed by the model, and mended when damaged."""

import copy
import dataclasses

import pytest
import torch

from resprune import backbones
from resprune.errors import StudyError
from resprune.testing.tiny import tiny_tiled
from tuner import tasks
from tuner.scoring.model import fingerprint
from tuner.scoring.visual import VisualCache


@pytest.fixture(scope="module")
def backbone(random_llava):
    return random_llava


@pytest.fixture(scope="module")
def samples():
    return tasks.get("nano-scenes").samples("tune", 20)  # three images


def cache(folder, backbone, key="k"):
    return VisualCache(folder, backbone, key, ["cls_attention"])


def test_each_image_is_encoded_once(tmp_path, backbone, samples):
    first = cache(tmp_path, backbone)
    first.load(samples)
    first.load(samples)
    assert first.encoder_calls == 3
    again = cache(tmp_path, backbone)
    again.load(samples)
    assert again.encoder_calls == 0
    for sample in samples:
        a, b = first[sample.image_key][0], again[sample.image_key][0]
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(a.signals["cls_attention"], b.signals["cls_attention"])
        assert torch.equal(a.boxes, b.boxes)
        assert a.grid == b.grid == (14, 14)


def test_cached_tokens_are_those_of_the_model(tmp_path, backbone, samples):
    held = cache(tmp_path, backbone)
    held.load(samples[:1])
    pixels = backbone.processor(
        images=samples[0].load_image(),
        text=backbone.chat_prompt("Is there a star?"),
        return_tensors="pt",
    )["pixel_values"]
    with torch.no_grad():
        expected = backbone.model.get_image_features(pixel_values=pixels).pooler_output[0]
    assert torch.allclose(held[samples[0].image_key][0].tokens, expected, atol=1e-5)


def test_another_model_is_encoded_anew(tmp_path, backbone, samples):
    cache(tmp_path, backbone).load(samples)
    other = cache(tmp_path, backbone, key="other")
    other.load(samples)
    assert other.encoder_calls == 3


def test_versions_of_an_image_are_kept_apart(tmp_path, backbone, samples):
    old, other = samples[0], samples[-1]
    new = dataclasses.replace(old, image_version="2", load=other.load)
    assert old.image_key != new.image_key
    alone = cache(tmp_path / "alone", backbone)
    alone.load([other])
    expected = alone[other.image_key][0].tokens
    together = cache(tmp_path, backbone)
    together.load([old])
    together.load([new])
    after = cache(tmp_path, backbone)  # in the same place in another run
    after.load([new])
    assert after.encoder_calls == 0
    for held in (together, after):
        assert torch.allclose(held[new.image_key][0].tokens, expected, atol=1e-5)
    assert not torch.allclose(together[old.image_key][0].tokens, expected, atol=1e-2)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file_is_made_again(tmp_path, backbone, samples, damage):
    first = cache(tmp_path, backbone)
    first.load(samples)
    (path,) = tmp_path.glob("visual-*.safetensors")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    path.write_bytes({"truncated": raw[: len(raw) // 2], "flipped": raw, "empty": b""}[damage])
    again = cache(tmp_path, backbone)
    with pytest.warns(UserWarning, match=r"visual-.*damaged visual cache"):
        again.load(samples)
    assert again.encoder_calls == 3
    key = samples[0].image_key
    assert torch.equal(again[key][0].tokens, first[key][0].tokens)
    third = cache(tmp_path, backbone)
    third.load(samples)
    assert third.encoder_calls == 0


def test_an_unwritable_folder_is_named(tmp_path, backbone):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="file/cache: cannot be written"):
        cache(tmp_path / "file" / "cache", backbone)


def test_fingerprint_follows_weights_and_config(nano_random):
    model, processor = nano_random
    before = fingerprint(model, processor)
    assert fingerprint(model, processor) == before
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.multi_modal_projector.linear_1.bias[0] += 1e-3
    assert fingerprint(other, processor) != before
    other = copy.deepcopy(model)
    other.config.vision_feature_layer = -2
    assert fingerprint(other, processor) != before


def test_places_survive_a_reload(tmp_path, ragged_samples):
    """A tiled image: where a token lies cannot be told from the grid alone."""
    model, processor = tiny_tiled("llava_next")
    tiled = backbones.for_model(model.eval(), processor)
    samples = ragged_samples[-3:]
    first, again = (VisualCache(tmp_path, tiled, "k", tiled.seed_signals) for _ in range(2))
    first.load(samples)
    again.load(samples)
    assert again.encoder_calls == 0
    for sample in samples:
        image = sample.load_image()
        inputs = processor(images=image, text=tiled.chat_prompt(sample.prompt), return_tensors="pt")
        (fresh,) = tiled.encode(inputs, image_sizes=[(image.height, image.width)])
        expected = fresh.tile_row_column()
        assert len(expected[:, 0].unique()) > 1
        for cache in (first, again):
            assert torch.equal(cache[sample.image_key][0].tile_row_column(), expected)
