"""Samples with several images against attach and generate; KL against its definition in float64."""

import dataclasses

import numpy as np
import pytest
import torch

from resprune import PruningConfig, attach, backbones
from resprune.errors import StudyError
from resprune.plan import Plan, Rule, joined, parted
from resprune.setting import Setting, unpruned
from resprune.testing.tiny import tiny_qwen, tiny_tiled

SETTINGS = [
    Setting.of("resprune", 11, alpha=0.75, seed_strategy="l2_norm"),
    Setting.of("pool", 4),
    Setting.of("l2_norm", 6),
]


def several(samples, counts):
    """Give the first samples the pictures of later ones as well."""
    found, rest = [], [picture for sample in samples[::-1] for picture in sample.pictures]
    for sample, count in zip(samples, counts, strict=False):
        more = tuple(rest.pop() for _ in range(count - 1))
        found.append(dataclasses.replace(sample, more=more))
    return found


def attached(backbone, sample, setting, new_tokens=3):
    images = [picture.load() for picture in sample.pictures]
    text = backbone.chat_prompt(sample.prompt, len(images))
    inputs = dict(backbone.processor(images=[images], text=[text], return_tensors="pt"))
    config = PruningConfig.from_dict(
        {"default": setting.budget.model_dump(), "table": [setting.model_dump(mode="json")]}
    )
    with attach(backbone.model, backbone.processor, config) as handle:
        output = backbone.model.generate(
            **inputs, query=[sample.question], max_new_tokens=new_tokens, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        kept = [each.tolist() for each in handle.last.kept]
    text = backbone.processor.tokenizer.decode(
        output.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return text.strip(), output.logits[0][0].double().log_softmax(-1), kept


@pytest.fixture(
    scope="module", params=["llava", "llava_next", "llava_onevision", "idefics3", "qwen"]
)
def family(request, nano_llava):
    if request.param == "llava":
        return nano_llava
    made = tiny_qwen("qwen2_5_vl") if request.param == "qwen" else tiny_tiled(request.param)
    return backbones.for_model(made[0].eval(), made[1])


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.method)
def test_each_image_is_planned_and_answered_as_attach_does(
    family, make_split, ragged_samples, setting
):
    samples = several(ragged_samples, [3, 1, 2])
    split = make_split(family, samples, metric="fidelity")
    (plans,) = split.plans([setting])
    answers = split.answers([plans])[0]
    for i, sample in enumerate(samples):
        text, _, kept = attached(family, sample, setting)
        sizes = [len(visual.tokens) for visual in split.visuals(i)]
        assert [plan.kept.tolist() for plan in parted(plans[i], sizes)] == kept
        assert answers[i] == text
    assert split.tokens(setting) == setting.budget.count  # of each image


def test_the_answer_depends_on_the_second_image(nano_llava, make_split, scenes):
    one, *others = scenes[:1] + scenes[8:]
    pair = dataclasses.replace(one, more=others[0].pictures)
    twice = dataclasses.replace(one, more=one.pictures)
    split = make_split(nano_llava, [one, pair, twice], metric="fidelity")
    plans = split.unpruned()
    assert [len(plan.kept) for plan in plans] == [196, 392, 392]
    likely = split.first_token_likelihoods([plans])[0]
    assert len(set(likely.round(4))) == 3


def test_joined_plans_come_apart_again():
    plans = [Plan(torch.tensor([0, 2])), Plan(torch.tensor([1])), Plan(torch.tensor([0, 3]))]
    whole = joined(plans, [3, 2, 4])
    assert whole.kept.tolist() == [0, 2, 4, 5, 8]
    assert [p.kept.tolist() for p in parted(whole, [3, 2, 4])] == [[0, 2], [1], [0, 3]]
    ruled = [dataclasses.replace(p, rule=Rule("fastv", None, 2)) for p in plans]
    assert joined(ruled, [3, 2, 4]).rule.count == 6


def test_what_is_chosen_by_prompt_is_refused(nano_llava, make_split, scenes):
    pair = dataclasses.replace(scenes[0], more=scenes[8].pictures)
    with pytest.raises(StudyError, match=r"has 2 images.*alpha\.adaptive = false"):
        make_split(nano_llava, [pair], metric="fidelity").features()


# -- KL --------------------------------------------------------------------------------------


def divergence(backbone, sample, setting):
    """KL of every token of the unpruned answer and its end, by one call a prefix, in float64."""
    answer, _, _ = attached(backbone, sample, unpruned())
    ids = backbone.processor.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
    apart = []
    for n in range(len(ids) + 1):
        prefix = backbone.processor.tokenizer.decode(ids[:n])
        whole, pruned = (after(backbone, sample, prefix, each) for each in (unpruned(), setting))
        apart.append(float((whole.exp() * (whole - pruned)).sum()))
    return float(np.mean(apart))


def after(backbone, sample, prefix, setting):
    images = [picture.load() for picture in sample.pictures]
    text = backbone.chat_prompt(sample.prompt, len(images)) + prefix
    inputs = dict(backbone.processor(images=[images], text=[text], return_tensors="pt"))
    config = PruningConfig.from_dict(
        {"default": setting.budget.model_dump(), "table": [setting.model_dump(mode="json")]}
    )
    with attach(backbone.model, backbone.processor, config), torch.no_grad():
        logits = backbone.model(**inputs, query=[sample.question]).logits
    return logits[0, -1].double().log_softmax(-1)


@pytest.mark.parametrize("setting", [SETTINGS[0], Setting.of("l2_norm", 4)], ids=["11", "4"])
def test_kl_is_the_mean_over_the_tokens_of_the_unpruned_answer(
    nano_llava, make_split, scenes, setting
):
    samples = [scenes[0], scenes[9]]
    split = make_split(nano_llava, samples, metric="kl")
    scores = split.score(setting)
    expected = [-divergence(nano_llava, sample, setting) for sample in samples]
    assert scores == pytest.approx(expected, rel=2e-3, abs=1e-5)
    assert scores.min() < -1e-3
    assert split.score(unpruned()) == pytest.approx([0.0, 0.0], abs=1e-5)


def test_kl_of_methods_inside_the_llm_and_before_the_tower(ragged, make_split, ragged_samples):
    split = make_split(ragged, ragged_samples[:4], metric="kl")
    inside = Setting.of("fastv", 2, layer=1)
    everything = Setting.of("fastv", 10_000, layer=1)
    scores = split.scores([inside, everything, Setting.of("downsample", 4)])
    assert scores[1] == pytest.approx([0.0] * 4, abs=1e-5)
    assert scores[0].max() < 0
    assert scores[2].max() < 0


def test_kl_needs_no_labels_and_is_remembered(nano_llava, make_split, scenes):
    bare = [dataclasses.replace(sample, answers=()) for sample in scenes[:3]]
    split = make_split(nano_llava, bare, metric="kl")
    first = split.score(SETTINGS[0])
    again = make_split(nano_llava, bare, metric="kl")
    assert again.score(SETTINGS[0]).tolist() == first.tolist()
    assert again.prefills == 0
