"""A split against what it stands for: attach and generate, one sample at a time."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from resprune import PruningConfig, attach, backbones
from resprune.errors import StudyError
from resprune.plan import Plan
from resprune.setting import Setting, unpruned
from resprune.testing.tiny import tiny_llava, tiny_qwen, tiny_tiled
from tuner import tasks
from tuner.scoring.model import load_backbone
from tuner.study import BackboneSection

SETTING = Setting.of("resprune", 11, alpha=0.75, seed_strategy="cls_attention")


def inputs_of(backbone, image, text):
    return dict(backbone.processor(images=image, text=text, return_tensors="pt"))


def generated(backbone, sample, image=None):
    """The answer as a user gets it, and the log-probabilities of its first token, (V,)."""
    image = image or sample.load_image()
    inputs = inputs_of(backbone, image, backbone.chat_prompt(sample.prompt))
    output = backbone.model.generate(
        **inputs,
        max_new_tokens=3,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = output.sequences[0, inputs["input_ids"].shape[1] :]
    answer = backbone.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    return answer, output.logits[0][0].float().log_softmax(-1)


def gold_ids(backbone, sample):
    """Ids of the gold answer behind the prompt of nano-scenes."""
    prompt, image = backbone.chat_prompt(sample.prompt), sample.load_image()
    short = inputs_of(backbone, image, prompt)["input_ids"]
    full = inputs_of(backbone, image, f"{prompt} {sample.answers[0]}")["input_ids"]
    return full[0, short.shape[1] :]


def served(split, backbone, config):
    """Answers and likelihoods (N,) of the gold answer's first token, through ``attach``."""
    with attach(backbone.model, backbone.processor, config):
        found = [generated(backbone, sample) for sample in split.samples]
    firsts = [int(gold_ids(backbone, sample)[0]) for sample in split.samples]
    likelihoods = [float(row[first]) for (_, row), first in zip(found, firsts, strict=True)]
    return [answer for answer, _ in found], np.array(likelihoods)


def config_of(setting):
    return PruningConfig.from_dict({"default": setting.budget, "table": [setting]})


# -- answers are those of attach ----------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        Setting.of("resprune", 6, alpha=2.0, seed_strategy="cls_attention", pooling="mean"),
        Setting.of("resprune", 22, alpha=0.0, seed_strategy="l2_norm", positions="compact"),
        Setting.of("resprune", {"energy": 0.3, "most": 22, "least": 2}, alpha=0.5),
        Setting.of("visionzip", 6, contextual=0.4),
        Setting.of("pool", 16),
        Setting.of("vispruner", 0.1, important=0.5),
        Setting.of("scope", 11),
    ],
    ids=lambda s: f"{s.method} {s.budget}",
)
def test_answers_are_those_of_attach_and_generate(make_split, nano_llava, scenes, setting):
    split = make_split(nano_llava, scenes)
    plans = split.plans([setting])
    answers, likelihoods = served(split, nano_llava, config_of(setting))
    assert split.answers(plans) == [answers]
    assert np.allclose(split.first_token_likelihoods(plans), [likelihoods], atol=1e-3)
    right = [
        float(a == sample.answers[0]) for a, sample in zip(answers, split.samples, strict=True)
    ]
    assert split.score(setting).tolist() == right


def test_unpruned_answers_are_those_of_the_model(make_split, nano_llava, scenes):
    split = make_split(nano_llava, scenes)
    expected = [generated(nano_llava, sample)[0] for sample in scenes]
    assert split.answers([split.unpruned()]) == [expected]
    assert len(set(expected)) > 3
    right = [float(a == s.answers[0]) for a, s in zip(expected, scenes, strict=True)]
    assert split.score(unpruned()).tolist() == right
    assert split.tokens(unpruned()) == 196


def tiny(family):
    if family == "llava":
        return tiny_llava()
    return tiny_qwen(family) if "qwen" in family else tiny_tiled(family)


@pytest.mark.parametrize("method", ["resprune", "pool"])
@pytest.mark.parametrize("family", backbones.names())
def test_every_family_answers_as_under_attach(make_split, family, method):
    model, processor = tiny(family)
    backbone = backbones.for_model(model.eval(), processor)
    setting = Setting.of(method, 4)
    split = make_split(backbone, tasks.get("nano-scenes").samples("tune", 2))
    (answers,) = split.answers(split.plans([setting]))
    with attach(model, processor, config_of(setting)):
        assert answers == [generated(backbone, sample)[0] for sample in split.samples]


def test_the_answer_cannot_reach_the_selection(make_split, random_llava, scenes, with_answers):
    split = make_split(random_llava, scenes)
    lying = make_split(random_llava, with_answers(scenes, [("circle",)] * len(scenes)))
    for one, other in zip(split.plans([SETTING])[0], lying.plans([SETTING])[0], strict=True):
        assert one.key() == other.key()
    assert np.array_equal(split.features(), lying.features())


# -- outcomes are computed once, and told apart -------------------------------------------


def test_no_outcome_is_computed_twice(make_split, random_llava, scenes, tmp_path):
    split = make_split(random_llava, scenes)
    first = split.score(SETTING)
    assert split.prefills == 11
    assert np.array_equal(split.score(SETTING), first)
    # the same kept set by another way
    (plans,) = split.plans([SETTING])
    split.score_plans([[Plan(plan.kept.clone()) for plan in plans], plans])
    assert split.prefills == 11
    split.score_plans([[Plan(plan.kept, "compact") for plan in plans]])
    assert split.prefills == 22
    again = make_split(random_llava, scenes)
    assert np.array_equal(again.score(SETTING), first)
    assert again.prefills == 0
    other_metric = make_split(random_llava, scenes, metric="log_likelihood")
    other_metric.score(SETTING)
    assert other_metric.prefills == 11


def test_settings_that_keep_the_same_share_a_prefill(make_split, random_llava, scenes):
    split = make_split(random_llava, scenes)
    one, other = split.scores([SETTING, SETTING.with_options(alpha=0.75 + 1e-9)])
    assert split.prefills == 11
    assert np.array_equal(one, other)


def test_outcomes_of_another_model_do_not_collide(make_split, random_llava, nano_llava, scenes):
    """Two models, one file of outcomes: each gets its own."""
    mine = make_split(random_llava, scenes, key="one")
    first = mine.first_token_likelihoods(mine.plans([SETTING]))
    other = make_split(nano_llava, scenes, key="other")
    second = other.first_token_likelihoods(other.plans([SETTING]))
    assert (mine.prefills, other.prefills) == (11, 11)
    assert not np.allclose(first, second)
    again = make_split(random_llava, scenes, key="one")
    assert np.array_equal(again.first_token_likelihoods(again.plans([SETTING])), first)
    assert again.prefills == 0


def test_each_kept_set_has_its_own_outcome(make_split, nano_llava, scenes):
    """Settings that keep other tokens, asked for at once, against ``attach`` one by one."""
    samples = scenes[:6]
    settings = [SETTING, SETTING.at(3), Setting.of("l2_norm", 11), unpruned()]
    split = make_split(nano_llava, samples)
    plans = split.plans(settings)
    found = split.first_token_likelihoods(plans)
    expected = [served(split, nano_llava, config_of(each))[1] for each in settings]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    for one, other in itertools.combinations(expected, 2):
        assert abs(one - other).max() > 0.01
    # and so from the file, in another order
    again = make_split(nano_llava, samples)
    assert np.array_equal(again.first_token_likelihoods(plans[::-1]), found[::-1])
    assert again.prefills == 0


def test_outcomes_follow_the_image_and_the_prompt(make_split, nano_llava, scenes):
    """A sample of the same name whose image, question or gold answer changed is scored anew."""
    make_split(nano_llava, scenes).score(SETTING)
    sample = scenes[0]
    unchanged = make_split(nano_llava, [sample])
    unchanged.score(SETTING)
    assert unchanged.prefills == 0
    changed = [
        dataclasses.replace(sample, image_version="2"),
        dataclasses.replace(sample, prompt=scenes[1].prompt),
        dataclasses.replace(sample, answers=("zwei",)),
    ]
    for other in changed:
        split = make_split(nano_llava, [other])
        split.score(SETTING)
        assert split.prefills == 1, other


def test_another_version_of_an_image_is_another_image(make_split, nano_llava, scenes, tmp_path):
    """One id in one run folder: what is scored is the picture that is there now."""
    sample = scenes[0]
    turned = dataclasses.replace(
        sample,
        image_version="turned",
        load=lambda: sample.load_image().transpose(Image.Transpose.ROTATE_180),
    )
    setting = SETTING.at(22)
    before, after = (make_split(nano_llava, [each]) for each in (sample, turned))
    found = [split.first_token_likelihoods(split.plans([setting])) for split in (before, after)]
    _, expected = served(after, nano_llava, config_of(setting))
    assert np.allclose(found[1], [expected], atol=1e-3)
    assert not np.allclose(*found, atol=0.01)


@pytest.mark.parametrize(
    "setting", [Setting.of("visionzip", 11, contextual=0.4), Setting.of("pool", 11)]
)
def test_replaced_features_are_remembered_apart(make_split, nano_llava, scenes, setting):
    """The same kept tokens with their own features are another plan."""
    split = make_split(nano_llava, scenes)
    (plans,) = split.plans([setting])
    plain = [Plan(plan.kept, plan.positions) for plan in plans]
    replaced, own = split.first_token_likelihoods([plans, plain])
    assert split.prefills == 22
    assert not np.allclose(replaced, own, atol=0.01)
    # another process that asks in the other order gets the same
    again = make_split(nano_llava, scenes)
    found = again.first_token_likelihoods([plain, plans])
    assert again.prefills == 0
    assert np.array_equal(found, [own, replaced])
    # and it is the features that count: those of attach
    _, likelihoods = served(split, nano_llava, config_of(setting))
    assert np.allclose(replaced, likelihoods, atol=1e-3)


# -- metrics ------------------------------------------------------------------------------


def gold_log_likelihood(backbone, sample):
    """By hand: the unpruned model on the prompt with its answer after it."""
    prompt, image = backbone.chat_prompt(sample.prompt), sample.load_image()
    gold = gold_ids(backbone, sample)
    with torch.no_grad():
        logits = backbone.model(
            **inputs_of(backbone, image, f"{prompt} {sample.answers[0]}")
        ).logits[0]
    chances = logits.log_softmax(-1)[-len(gold) - 1 : -1]
    return float(chances.gather(1, gold[:, None]).sum())


def test_log_likelihood_is_teacher_forcing(make_split, random_llava, scenes, with_answers):
    several = [("red circle",), ("two",), ("a red star",)]
    for samples in (scenes, with_answers(scenes[:3], several)):
        split = make_split(random_llava, samples, metric="log_likelihood")
        expected = [gold_log_likelihood(random_llava, sample) for sample in samples]
        assert np.allclose(split.score(unpruned()), expected, atol=1e-4)


def test_the_first_token_comes_with_the_answer(make_split, random_llava, scenes):
    split = make_split(random_llava, scenes)
    (plans,) = split.plans([SETTING])
    beside = split.first_token_likelihoods([plans])
    prefills = split.prefills
    split.score_plans([plans])
    assert split.prefills == prefills
    # answers of nano-scenes are one token, so both are the same
    forced = make_split(random_llava, scenes, metric="log_likelihood").score_plans([plans])
    assert np.allclose(beside, forced, atol=1e-4)


def test_fidelity_compares_with_the_unpruned_answer(make_split, nano_llava, scenes, with_answers):
    samples = with_answers(scenes, [()] * len(scenes))  # it needs no gold answers
    split = make_split(nano_llava, samples, metric="fidelity")
    assert split.score(unpruned()).tolist() == [1.0] * 11
    small = SETTING.at(3)
    (pruned,), (whole,) = split.answers(split.plans([small])), split.answers([split.unpruned()])
    agree = [float(a == b) for a, b in zip(pruned, whole, strict=True)]
    assert 0 < sum(agree) < 11
    assert split.score(small).tolist() == agree


@pytest.mark.parametrize("metric", ["score", "log_likelihood"])
def test_a_metric_that_needs_gold_answers_says_so(
    make_split, random_llava, scenes, with_answers, metric
):
    samples = with_answers(scenes[:2], [("red",), ()])
    with pytest.raises(StudyError, match=rf"task\.metric: {metric} needs a gold answer"):
        make_split(random_llava, samples, metric=metric)


# -- images of different sizes ------------------------------------------------------------


def test_batches_of_near_counts_score_as_one_by_one(
    make_split, ragged, ragged_samples, monkeypatch, tmp_path
):
    split = make_split(ragged, ragged_samples, batch_size=32)
    lengths = [len(split.visual(i).tokens) for i in range(len(split))]
    plans = [
        Plan(torch.arange(min(length, 11 if i % 2 else 10))) for i, length in enumerate(lengths)
    ]
    assert {len(plan.kept) for plan in plans} >= {10, 11}
    calls = []
    real = ragged.model.generate

    def generate(**kwargs):
        calls.append(len(kwargs["input_ids"]))
        return real(**kwargs)

    monkeypatch.setattr(ragged.model, "generate", generate)
    together = split.first_token_likelihoods([plans])
    near = sum(len(plan.kept) >= 10 for plan in plans)
    assert near in calls
    assert sum(calls) == len(plans)
    calls.clear()
    alone = make_split(ragged, ragged_samples, batch_size=1, folder=tmp_path / "b")
    np.testing.assert_allclose(alone.first_token_likelihoods([plans]), together, atol=1e-4)
    assert calls == [1] * len(plans)


@pytest.fixture(scope="module")
def nano_qwen():
    return load_backbone(BackboneSection(model="nano-qwen2.5-vl", device="cpu"))


@pytest.fixture(scope="module")
def large_scenes():
    """Scenes at the sizes that give nano-qwen2.5-vl many tokens, and one small one."""

    def enlarged(sample, side):
        return lambda: sample.load_image().resize((side, side), Image.Resampling.BICUBIC)

    samples = tasks.get("nano-scenes").samples("tune", 24)[::8]
    return [
        dataclasses.replace(sample, load=enlarged(sample, side))
        for sample, side in zip(samples, (112, 168, 224), strict=True)
    ]


def placeholders(backbone, sample, image):
    """Visual tokens that the tower really gives for an image."""
    ids = inputs_of(backbone, image, backbone.chat_prompt(sample.prompt))["input_ids"]
    return int((ids == backbone.image_token_id).sum())


@pytest.mark.parametrize("budget", [0.25, 16])
def test_downsample_counts_the_tokens_the_tower_gave(make_split, nano_qwen, large_scenes, budget):
    split = make_split(nano_qwen, large_scenes)
    setting = Setting.of("downsample", budget)
    smaller = []
    for sample in large_scenes:
        image = sample.load_image()
        tokens = placeholders(nano_qwen, sample, image)
        wanted = min(16, tokens) if budget == 16 else round(0.25 * tokens)
        scale = (wanted / tokens) ** 0.5
        size = (round(image.width * scale), round(image.height * scale))
        smaller.append(image.resize(size, Image.Resampling.BICUBIC))
    counts = [
        placeholders(nano_qwen, sample, image)
        for sample, image in zip(large_scenes, smaller, strict=True)
    ]
    whole = [placeholders(nano_qwen, sample, sample.load_image()) for sample in large_scenes]
    assert sum(counts) < sum(whole)
    assert split.tokens(setting) == round(sum(counts) / len(counts))
    answers = [
        generated(nano_qwen, sample, image)[0]
        for sample, image in zip(large_scenes, smaller, strict=True)
    ]
    right = [float(a == s.answers[0]) for a, s in zip(answers, large_scenes, strict=True)]
    prefills = split.prefills
    assert split.score(setting).tolist() == right
    assert split.prefills == prefills + len(large_scenes)


def test_downsample_is_compared_with_the_whole_image(make_split, nano_qwen, large_scenes):
    """Under fidelity the reference is the model's answer to the image as it is."""
    split = make_split(nano_qwen, large_scenes, metric="fidelity")
    setting = Setting.of("downsample", 1)
    (whole,) = split.answers([split.unpruned()])
    agree = split.score(setting)
    tiny_answers = []
    for sample in large_scenes:
        image = sample.load_image()
        tokens = placeholders(nano_qwen, sample, image)
        side = max(1, round(image.width * (1 / tokens) ** 0.5))
        tiny_answers.append(
            generated(nano_qwen, sample, image.resize((side, side), Image.Resampling.BICUBIC))[0]
        )
    expected = [float(a == b) for a, b in zip(tiny_answers, whole, strict=True)]
    assert expected != [1.0] * len(expected)
    assert agree.tolist() == expected
