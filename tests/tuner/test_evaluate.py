"""The engine against what it stands for: attach and generate, one sample at a time."""

import numpy as np
import pytest
import torch

from resprune import NounExtractor, PruningConfig, attach, backbones
from resprune.selection import PromptReader, select
from tuner import tasks
from tuner.cache import Memo, VisualCache
from tuner.evaluate import Engine, Kept, Setting, kept_of

SETTING = Setting(0.75, "cls_attention")


@pytest.fixture(scope="module")
def backbone(nano_random):
    return backbones.for_model(*nano_random)


@pytest.fixture(scope="module")
def reader(backbone):
    return PromptReader(backbone, NounExtractor())


@pytest.fixture
def make(backbone, reader, tmp_path):
    def engine(count=11, key="model", **options):
        task = tasks.get("nano-scenes")
        visual = VisualCache(tmp_path / "cache", backbone, key, backbone.seed_signals)
        memo = Memo(tmp_path / "outcomes.jsonl", key)
        samples = options.pop("samples", None) or task.samples("tune", count)
        return Engine(task, samples, visual, memo, reader, batch_size=4, **options)

    return engine


def inputs_of(backbone, sample):
    prompt = backbone.chat_prompt(sample.prompt)
    return dict(backbone.processor(images=sample.load_image(), text=prompt, return_tensors="pt"))


def decode(backbone, output, inputs):
    new = output[0, inputs["input_ids"].shape[1] :]
    return backbone.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("budget", [6, 22])
@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_answers_are_those_of_attach_and_generate(make, backbone, budget, positions):
    engine = make()
    setting = Setting(0.75, "cls_attention", positions=positions)
    config = PruningConfig.single(
        budget, alpha=0.75, seed_strategy="cls_attention", positions=positions
    )
    answers = engine.predictions([engine.kept(setting, budget)])[0]
    with attach(backbone.model, backbone.processor, config):
        for sample, answer in zip(engine.samples, answers, strict=True):
            inputs = inputs_of(backbone, sample)
            output = backbone.model.generate(**inputs, max_new_tokens=3, do_sample=False)
            assert answer == decode(backbone, output, inputs)


def test_unpruned_answers_are_those_of_the_model(make, backbone):
    engine = make()
    for sample, answer in zip(engine.samples, engine.unpruned_answers(), strict=True):
        inputs = inputs_of(backbone, sample)
        output = backbone.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert answer == decode(backbone, output, inputs)


@pytest.mark.parametrize("strategy", ["cls_attention", "l2_norm", "relevance", "none"])
def test_orders_are_those_of_the_method_one_by_one(make, strategy):
    engine = make()
    alphas = [0.0, 0.75, 4.0]
    orders = engine.orders(Setting(0, strategy, "mean", "shift"), alphas, 22)
    assert orders.shape == (3, 11, 22)
    for a, alpha in enumerate(alphas):
        config = PruningConfig.single(
            22, alpha=alpha, seed_strategy=strategy, pooling="mean", normalization="shift"
        )
        for i in range(len(engine)):
            expected = select(engine.visual(i), engine.prompt(i), config.entry(), config)
            assert orders[a, i].tolist() == expected.order.tolist()


def test_orders_are_nested(make):
    engine = make()
    large = engine.orders(SETTING, [0.5], 43)
    assert np.array_equal(large[..., :11], engine.orders(SETTING, [0.5], 11))


def test_the_answer_cannot_reach_the_selection(make, reader):
    engine = make()
    lying = [
        tasks.Sample(s.id, s.image_id, s.question, s.prompt, ("circle",), s.group, s.load)
        for s in engine.samples
    ]
    other = make(samples=lying)
    assert np.array_equal(engine.orders(SETTING, [2.0], 22), other.orders(SETTING, [2.0], 22))
    assert np.array_equal(engine.features(), other.features())


def test_no_outcome_is_computed_twice(make):
    engine = make()
    first = engine.score(SETTING, 11)
    once = engine.prefills
    assert once == 11
    assert np.array_equal(engine.score(SETTING, 11), first)
    # the same kept set by another way
    kept = engine.kept(SETTING, 11)
    engine.outcomes([Kept(kept.indices.copy()), kept])
    assert engine.prefills == once
    engine.outcomes([Kept(kept.indices, "compact")])
    assert engine.prefills == 2 * once
    again = make()
    assert np.array_equal(again.score(SETTING, 11), first)
    assert again.prefills == 0


def test_alphas_that_keep_the_same_share_a_prefill(make):
    engine = make()
    scores = engine.grid(SETTING, [1.0, 1.0 + 1e-9], [6])
    assert engine.prefills == 11
    assert np.array_equal(scores[0, 0], scores[0, 1])


def gold_log_likelihood(backbone, sample):
    """By hand: the unpruned model on the prompt with its answer after it."""
    prompt = backbone.chat_prompt(sample.prompt)
    image = sample.load_image()
    short = backbone.processor(images=image, text=prompt, return_tensors="pt")
    full = backbone.processor(
        images=image, text=f"{prompt} {sample.answers[0]}", return_tensors="pt"
    )
    start = short["input_ids"].shape[1]
    with torch.no_grad():
        chances = backbone.model(**full).logits[0].log_softmax(-1)
    gold = full["input_ids"][0, start:]
    return float(chances[start - 1 : -1].gather(1, gold[:, None]).sum())


def test_log_likelihood_is_teacher_forcing(make, backbone):
    engine = make(metric="log_likelihood")
    found = engine.unpruned()
    expected = [gold_log_likelihood(backbone, sample) for sample in engine.samples]
    assert np.allclose(found, expected, atol=1e-4)


def test_log_likelihood_of_several_tokens(make, backbone):
    samples = [
        tasks.Sample(s.id, s.image_id, s.question, s.prompt, answers, s.group, s.load)
        for s, answers in zip(
            tasks.get("nano-scenes").samples("tune", 3),
            (("red circle",), ("two",), ("a red star",)),
            strict=True,
        )
    ]
    engine = make(samples=samples, metric="log_likelihood")
    expected = [gold_log_likelihood(backbone, sample) for sample in samples]
    assert np.allclose(engine.unpruned(), expected, atol=1e-4)


def test_the_first_token_comes_with_the_answer(make):
    engine = make()
    kept = engine.kept(SETTING, 11)
    beside = engine.likelihoods([kept])
    prefills = engine.prefills
    engine.outcomes([kept])
    assert engine.prefills == prefills
    # answers of nano-scenes are one token, so both are the same
    forced = make(metric="log_likelihood").outcomes([kept])
    assert np.allclose(beside, forced, atol=1e-4)


def test_fidelity_compares_with_the_unpruned_answer(make):
    engine = make(metric="fidelity")
    assert engine.unpruned().tolist() == [1.0] * 11
    answers = engine.predictions([engine.kept(SETTING, 6)])[0]
    agree = [float(a == b) for a, b in zip(answers, engine.unpruned_answers(), strict=True)]
    assert engine.score(SETTING, 6).tolist() == agree


def test_random_kept_sets_are_seeded_and_differ(make):
    engine = make()
    a, b = engine.random(11, 0).indices, engine.random(11, 0).indices
    assert np.array_equal(a, b)
    assert len({tuple(row) for row in a}) == 11
    assert not np.array_equal(a, engine.random(11, 1).indices)
    assert all(len(set(row)) == 11 and list(row) == sorted(row) for row in a.tolist())


def test_relevance_alone_takes_the_most_relevant(make):
    engine = make()
    kept = engine.most_relevant(SETTING, 6).indices
    for i in range(len(engine)):
        config = PruningConfig.single(6, alpha=1.0, seed_strategy="l2_norm")
        relevance = select(engine.visual(i), engine.prompt(i), config.entry(), config).relevance
        others = np.setdiff1d(np.arange(196), kept[i])
        assert relevance[kept[i]].min() >= relevance[others].max()


def test_kept_of_short_images():
    order = np.array([[3, 0, -1], [5, 2, 4]])
    assert kept_of(order, 3).indices.tolist() == [[0, 3, -1], [2, 4, 5]]
    assert kept_of(order, 2).indices.tolist() == [[0, 3], [2, 5]]


def tiny(family):
    from resprune.testing.tiny import tiny_llava, tiny_qwen, tiny_tiled

    if family == "llava":
        return tiny_llava()
    return tiny_qwen(family) if "qwen" in family else tiny_tiled(family)


@pytest.mark.parametrize("family", backbones.names())
def test_every_family_answers_as_under_attach(tmp_path, family):
    model, processor = tiny(family)
    backbone = backbones.for_model(model.eval(), processor)
    engine = Engine(
        tasks.get("nano-scenes"),
        tasks.get("nano-scenes").samples("tune", 2),
        VisualCache(tmp_path, backbone, "k", backbone.seed_signals),
        Memo(tmp_path / "outcomes.jsonl", "k"),
        PromptReader(backbone, NounExtractor()),
    )
    answers = engine.predictions([engine.kept(Setting(0.5, "l2_norm"), 4)])[0]
    config = PruningConfig.single(4, alpha=0.5, seed_strategy="l2_norm")
    with attach(model, processor, config):
        for sample, answer in zip(engine.samples, answers, strict=True):
            inputs = inputs_of(backbone, sample)
            output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
            assert answer == decode(backbone, output, inputs)
