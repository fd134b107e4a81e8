"""FLOPs against torch's own counter, cache bytes against the tensors of a real cache."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tuner.efficiency.flops import Decoder
from tuner.efficiency.shapes import SHAPES


def prefill(backbone, rows):
    """Run the decoder on rows of noise; return what the counter saw by module, and the cache."""
    model = backbone.model
    model.set_attn_implementation("eager")  # the counter knows no CPU kernel of sdpa
    decoder = model.get_decoder()
    noise = torch.randn(1, rows, backbone.width)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        output = decoder(inputs_embeds=noise, use_cache=True)
        model.lm_head(output.last_hidden_state[:, -1:])
    counts = {
        name.rpartition("layers.")[2]: sum(by_op.values())
        for name, by_op in counter.get_flop_counts().items()
        if name.rpartition("layers.")[2].isdigit()
    }
    (head,) = (
        sum(by_op.values())
        for name, by_op in counter.get_flop_counts().items()
        if name.endswith("lm_head") or name == "Linear"
    )
    return counts, head, output.past_key_values


def test_flops_are_those_that_torch_counts(backbone):
    decoder = Decoder.of(backbone.model.config)
    counts, head, _ = prefill(backbone, 17)
    assert len(counts) == decoder.layers
    assert decoder.prefill_flops([17] * decoder.layers) == sum(counts.values()) + head


def test_layers_may_run_on_different_rows(backbone):
    decoder = Decoder.of(backbone.model.config)
    many, head, long = prefill(backbone, 21)
    few, _, short = prefill(backbone, 9)
    rows = [21] + [9] * (decoder.layers - 1)
    expected = many["0"] + sum(few[str(i)] for i in range(1, decoder.layers)) + head
    assert decoder.prefill_flops(rows) == expected
    caches = [long.layers[0], *short.layers[1 : decoder.layers]]
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in caches)
    assert decoder.kv_bytes(rows, 4) == held


def test_parameters_are_those_of_the_layers(backbone):
    decoder = Decoder.of(backbone.model.config)
    layers = backbone.model.get_decoder().layers
    own = sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim == 2)
    assert decoder.parameters == own


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llava-1.5-7b", 6.48), ("llava-1.5-13b", 12.69), ("qwen2.5-vl-7b", 6.53)],
)
def test_shapes_have_the_size_they_are_named_after(name, billions):
    # 6.74, 13.02 and 7.62 billion less embeddings and head (2 x 32,000 x 4,096 and so on)
    config, _ = SHAPES[name].parts()
    assert Decoder.of(config).parameters / 1e9 == pytest.approx(billions, abs=0.01)
