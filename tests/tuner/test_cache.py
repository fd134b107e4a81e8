"""Caches in the run folder: reused, keyed by the model, and mended when damaged."""

import copy

import pytest
import torch
from tuner.cache import Memo, Outcome, VisualCache, fingerprint, image_key

from resprune import backbones
from resprune.errors import StudyError
from tuner import tasks


@pytest.fixture(scope="module")
def backbone(nano_random):
    return backbones.for_model(*nano_random)


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
        a, b = first[image_key(sample)], again[image_key(sample)]
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
    assert torch.allclose(held[image_key(samples[0])].tokens, expected, atol=1e-5)


def test_another_model_is_encoded_anew(tmp_path, backbone, samples):
    cache(tmp_path, backbone).load(samples)
    other = cache(tmp_path, backbone, key="other")
    other.load(samples)
    assert other.encoder_calls == 3


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
    key = image_key(samples[0])
    assert torch.equal(again[key].tokens, first[key].tokens)
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


VALUES = {b"a": Outcome("red", -0.5), b"b": Outcome("", None), b"c": Outcome(None, -3.25)}


def write(path, key="model"):
    memo = Memo(path, key)
    memo.put(VALUES)
    memo.close()


def test_outcomes_survive(tmp_path):
    write(tmp_path / "o.jsonl")
    memo = Memo(tmp_path / "o.jsonl", "model")
    assert {key: memo.get(key) for key in VALUES} == VALUES
    assert memo.get(b"d") is None
    memo.put({b"d": Outcome("new", None)})
    memo.close()
    assert len(Memo(tmp_path / "o.jsonl", "model")) == 4


@pytest.mark.parametrize("cut", [1, 5, 19])
def test_a_torn_tail_is_dropped(tmp_path, cut):
    path = tmp_path / "o.jsonl"
    write(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(UserWarning, match=r"o\.jsonl: torn at byte"):
        memo = Memo(path, "model")
    assert memo.get(b"a") == VALUES[b"a"]
    assert memo.get(b"c") is None
    memo.put({b"c": VALUES[b"c"]})
    memo.close()
    assert len(Memo(path, "model")) == 3


def test_damage_in_the_middle_drops_what_follows(tmp_path):
    path = tmp_path / "o.jsonl"
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'["zz", 3, []]\n', *lines[2:]]))
    with pytest.warns(UserWarning, match="dropped the 3 lines"):
        memo = Memo(path, "model")
    assert len(memo) == 1


def test_outcomes_of_another_model_are_set_aside(tmp_path):
    path = tmp_path / "o.jsonl"
    write(path)
    with pytest.warns(UserWarning, match="another model or version; set aside"):
        memo = Memo(path, "other")
    assert len(memo) == 0
    assert (tmp_path / "o.jsonl.old").is_file()
