"""Every policy is measured alike: what runs is counted exactly, what cannot run says why."""

import pytest
import torch
from PIL import Image

from resprune import attach
from resprune.config import PruningConfig
from resprune.errors import StudyError
from resprune.setting import Setting, unpruned
from tuner.efficiency.flops import Decoder
from tuner.efficiency.measure import ImagePrompt, measure
from tuner.scoring.visual import processed

OURS = Setting.of("resprune", 4, seed_strategy="l2_norm")
SAME_BUDGET = Setting.of("divprune", 4)
SHARE = Setting.of("random", 0.5)
IMPOSSIBLE = Setting.of("downsample", 4)


def prompts_of(backbone):
    """Two images of other sizes, with questions of other lengths."""
    asked = (((56, 56), "What color is the dog?"), ((28, 56), "How many people are there?"))
    return [
        ImagePrompt(Image.new("RGB", size, "red"), backbone.chat_prompt(question))
        for size, question in asked
    ]


def cache_of(backbone, prompt, policy):
    """The cache that a served prefill leaves, and the tokens it kept."""
    inputs = processed(backbone, [[prompt.image]], [prompt.text])
    config = PruningConfig(default=policy.budget, table=(policy,))
    with attach(backbone.model, backbone.processor, config) as attachment:
        output = backbone.model.generate(
            **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True
        )
    layers = len(backbone.model.get_decoder().layers)
    held = [(layer.keys, layer.values) for layer in output.past_key_values.layers[:layers]]
    return held, attachment.last


def test_counts_are_those_of_what_a_server_runs(backbone):
    prompts = prompts_of(backbone)
    found = measure(backbone, prompts, [OURS, SHARE], repeats=6, max_new_tokens=2)
    assert list(found) == [unpruned(), OURS, SHARE]
    decoder = Decoder.of(backbone.model.config)
    for policy, row in found.items():
        assert row.error is None
        held = [cache_of(backbone, prompt, policy) for prompt in prompts]  # 3 rounds each
        sizes = [sum(k.nbytes + v.nbytes for k, v in cache) for cache, _ in held]
        assert row.kv_bytes == sum(sizes) / 2
        rows = [[k.shape[-2] for k, _ in cache] for cache, _ in held]
        assert row.rows_per_layer == tuple((a + b) / 2 for a, b in zip(*rows, strict=True))
        assert row.prefill_flops == sum(map(decoder.prefill_flops, rows)) / 2
        if policy != unpruned():
            assert row.kept == sum(len(record.kept[0]) for _, record in held) / 2
    assert found[unpruned()].kept == sum(r.visual_tokens[0] for _, r in held) / 2


def test_parts_are_there_and_pairs_only_for_policies(llava):
    found = measure(llava, prompts_of(llava), [OURS, SAME_BUDGET], repeats=6, max_new_tokens=3)
    whole = found.pop(unpruned())
    assert (whole.first_token, whole.whole_call, whole.break_even) == (None, None, None)
    assert whole.read_ms.median == whole.select_ms.median == whole.prepare_ms.median == 0
    for row in found.values():
        assert row.first_token.low <= row.first_token.ratio <= row.first_token.high
        assert row.break_even is not None
        assert row.select_ms.low > 0
    assert found[OURS].read_ms.low > 0
    for row in (whole, *found.values()):
        for part in (row.vision_ms, row.prefill_ms, row.decode_ms):
            assert 0 < part.low <= part.median <= part.high
        parts = row.vision_ms.low + row.select_ms.low + row.prefill_ms.low
        assert row.first_token_ms.low >= parts


def test_a_policy_that_cannot_run_is_a_row_that_says_why(llava):
    found = measure(llava, prompts_of(llava), [IMPOSSIBLE, OURS], repeats=6, max_new_tokens=2)
    assert "changes the image before the processor" in found[IMPOSSIBLE].error
    assert found[IMPOSSIBLE].first_token is None
    assert found[OURS].error is None


def test_a_batch_that_does_not_fit_is_said_beside_those_that_do(llava):
    def too_large(module, args, kwargs):
        if len(kwargs["inputs_embeds"]) > 2:
            raise torch.OutOfMemoryError("out of memory on this device")

    hook = llava.model.get_decoder().register_forward_pre_hook(too_large, with_kwargs=True)
    try:
        found = measure(
            llava, prompts_of(llava), [OURS], repeats=6, max_new_tokens=2, batches=(2, 3)
        )
    finally:
        hook.remove()
    for row in found.values():
        assert list(row.tokens_per_second) == [1, 2]  # one prompt at a time is always measured
        assert row.batch_errors == {3: "out of memory on this device"}


def test_nothing_is_left_on_the_model(llava):
    model = llava.model
    modules = [model, *model.modules()]

    def hooks():
        return [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in modules]

    before, own = hooks(), [sorted(vars(m)) for m in modules]
    prompts = prompts_of(llava)
    measure(llava, prompts, [OURS, IMPOSSIBLE], repeats=6, max_new_tokens=2)
    assert (hooks(), [sorted(vars(m)) for m in modules]) == (before, own)
    with pytest.raises(KeyboardInterrupt):
        measure(llava, prompts, [OURS], repeats=6, max_new_tokens=2, progress=interrupt)
    assert (hooks(), [sorted(vars(m)) for m in modules]) == (before, own)


def interrupt(done, total):
    if done == 3:
        raise KeyboardInterrupt


def test_progress_ends_at_its_total(llava):
    told = []
    measure(
        llava,
        prompts_of(llava),
        [OURS],
        repeats=6,
        max_new_tokens=2,
        batches=(1, 2),
        progress=lambda *step: told.append(step),
    )
    assert told == [(i, 28) for i in range(1, 29)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"repeats": 5}, "repeats is 5; give 6 or more"),
        ({"max_new_tokens": 1}, "new tokens is 1; give 2 or more"),
        ({"batches": (8, 0)}, "batch size 0; give 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(llava, wrong, said):
    with pytest.raises(StudyError, match=said):
        measure(llava, prompts_of(llava), [OURS], **wrong)
    with pytest.raises(StudyError, match="no prompt"):
        measure(llava, [], [OURS])
