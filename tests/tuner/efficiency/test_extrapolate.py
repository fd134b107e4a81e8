"""A model cut to a few layers is that model, and a + L b is carried on."""

import pytest
import torch

from resprune import backbones
from resprune.testing.tiny import tiny_qwen
from tuner.efficiency.extrapolate import Depths
from tuner.efficiency.stopwatch import Timed

PARTS = {
    "vision_ms": 4.0,
    "read_ms": 1.0,
    "select_ms": 1.0,
    "prepare_ms": 1.0,
    "other_ms": 1.0,
    "new_tokens": 4,
    "batch": 1,
    "kept": 5,
    "visual_tokens": 16,
}


def timed(count, **times):
    return Timed(**{**PARTS, **times}, rows_per_layer=(9,) * count)


def test_times_that_grow_with_the_layers_are_carried_on():
    model, _ = tiny_qwen("qwen3_vl")
    depths = Depths(model, (1, 3), 28)
    runs = {
        n: timed(n, prefill_ms=7.0 + 5.0 * n, decode_ms=2.0 + 0.5 * n, vision_ms=9.5 + n / 2)
        for n in (1, 3)
    }
    full = depths.at_full(runs)
    assert full.prefill_ms == pytest.approx(7.0 + 5.0 * 28)
    assert full.decode_ms == pytest.approx(2.0 + 0.5 * 28)
    assert full.vision_ms == 10.5  # lies outside the layers
    assert full.rows_per_layer == (9,) * 28


def test_a_cut_model_computes_with_its_first_layers():
    model, processor = tiny_qwen("qwen3_vl")
    decoder = model.get_decoder()
    noise = torch.randn(1, 5, backbones.for_model(model, processor).width)
    layers, seen = list(decoder.layers), []
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: seen.append(layers.index(module)))
    Depths(model, (1, 2), 3).cut(2)
    with torch.no_grad():
        decoder(inputs_embeds=noise)
    assert seen == [0, 1]
