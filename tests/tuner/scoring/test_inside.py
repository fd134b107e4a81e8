"""Methods inside the LLM: the batches of a split against attach and one prompt at a time."""

import numpy as np
import pytest
import torch

from resprune import PruningConfig, attach
from resprune.layers import LayerPruner
from resprune.setting import Setting, unpruned

FASTV = Setting.of("fastv", 11)
SETTINGS = [
    FASTV,
    Setting.of("fastv", 22, positions="compact"),
    Setting.of("resprune", 64, alpha=0.5, seed_strategy="l2_norm").then("fastv", 11),
]
GOLD = [("red",), ("the square",), ("left of the circle",)]


def prompt_of(backbone, sample):
    text = backbone.chat_prompt(sample.prompt)
    return backbone.processor(images=sample.load_image(), text=text, return_tensors="pt")


def answers_of_attach(backbone, samples, setting):
    """Greedy answers, one prompt at a time, as a user gets them."""
    config = PruningConfig.from_dict({"default": setting.budget, "table": [setting]})
    found = []
    with attach(backbone.model, backbone.processor, config):
        for sample in samples:
            inputs = prompt_of(backbone, sample)
            output = backbone.model.generate(**inputs, max_new_tokens=3, do_sample=False)
            new = output[0, inputs["input_ids"].shape[1] :]
            text = backbone.processor.tokenizer.decode(new, skip_special_tokens=True)
            found.append(text.strip())
    return found


def likelihoods_of_attach(backbone, samples, setting, ids):
    """Log-likelihood of each gold answer, which generate is forced to write token by token."""
    config = PruningConfig.from_dict({"default": setting.budget, "table": [setting]})
    found = []
    with attach(backbone.model, backbone.processor, config):
        for sample, gold in zip(samples, ids, strict=True):
            inputs = prompt_of(backbone, sample)
            steps = iter(gold)
            output = backbone.model.generate(
                **inputs,
                max_new_tokens=len(gold),
                min_new_tokens=len(gold),
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                prefix_allowed_tokens_fn=lambda *_, steps=steps: [next(steps)],
            )
            rows = [row[0].float().log_softmax(-1) for row in output.logits]
            found.append(sum(float(row[t]) for row, t in zip(rows, gold, strict=True)))
    return found


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.method} {s.positions}")
def test_answers_are_those_of_attach(make_split, nano_llava, scenes, setting):
    split = make_split(nano_llava, scenes)
    expected = answers_of_attach(nano_llava, scenes, setting)
    assert split.answers(split.plans([setting])) == [expected]
    assert expected != split.answers([split.unpruned()])[0]  # so few are felt


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.method} {s.positions}")
def test_the_answer_does_not_choose_what_is_kept(
    make_split, nano_llava, scenes, with_answers, setting
):
    samples = with_answers(scenes[:6], [GOLD[i % 3] for i in range(6)])
    split = make_split(nano_llava, samples, metric="log_likelihood")
    ids = [split._prompts.answer(i).tolist() for i in range(6)]
    assert len({len(each) for each in ids}) > 1  # so they are padded
    expected = likelihoods_of_attach(nano_llava, samples, setting, ids)
    assert np.allclose(split.score(setting), expected, atol=1e-3)
    # all kept, the prompt and the answer in two steps give what one pass gives
    whole = Setting.of("fastv", 196)
    assert np.allclose(split.score(whole), split.score(unpruned()), atol=1e-3)


def test_where_t_follows_the_image_answers_are_those_of_attach(
    make_split, ragged, ragged_samples, with_answers
):
    samples = with_answers(ragged_samples, [GOLD[i % 3] for i in range(len(ragged_samples))])
    answering = make_split(ragged, samples)
    scoring = make_split(ragged, samples, metric="log_likelihood")
    ids = [scoring._prompts.answer(i).tolist() for i in range(len(samples))]
    for setting in (Setting.of("fastv", 0.5), Setting.of("resprune", 0.8).then("fastv", 0.3)):
        plans = answering.plans([setting])
        totals = [len(answering.visual(i).tokens) for i in range(len(samples))]
        share = setting.inside.budget.ratio
        assert [plan.rule.count for plan in plans[0]] == [max(1, round(share * t)) for t in totals]
        expected = answers_of_attach(ragged, samples, setting)
        assert answering.answers(plans) == [expected]
        expected = likelihoods_of_attach(ragged, samples, setting, ids)
        assert np.allclose(scoring.score(setting), expected, atol=1e-3)


def test_a_batch_has_one_way_to_prune_and_no_more_rows_than_enter(
    make_split, nano_llava, scenes, monkeypatch
):
    split = make_split(nano_llava, scenes, batch_size=16)
    entered, prefill = [], LayerPruner.prefill

    def recorded(self, rules, positions, newlines):
        entered.append(({(r.method, r.options) for r in rules}, len(rules)))
        return prefill(self, rules, positions, newlines)

    monkeypatch.setattr(LayerPruner, "prefill", recorded)
    mixed = [FASTV, Setting.of("fastv", 22), Setting.of("fastv", 11, layer=16), unpruned()]
    scores = split.score_plans(split.plans(mixed))
    assert all(len(ways) == 1 for ways, _ in entered)
    assert sum(rows for _, rows in entered) == 3 * len(scenes)
    # sixteen rows of 80 tokens are a batch here, and more than 196 enter
    assert 1 < max(rows for _, rows in entered) <= 16 * 80 // 196
    for setting, row in zip(mixed, scores, strict=True):
        assert np.array_equal(split.score_plans(split.plans([setting]))[0], row)


def test_outcomes_are_shared_with_the_same_rule_alone(make_split, nano_llava, scenes):
    split = make_split(nano_llava, scenes)
    split.score(FASTV)
    assert split.prefills == len(scenes)
    split.score_plans(split.plans([FASTV]))
    assert split.prefills == len(scenes)
    # another count, another layer, another method before it: nothing in common
    later = Setting.of("resprune", 64).then("fastv", 11)
    for n, other in enumerate((FASTV.at(12), FASTV.with_options(layer=16), later), 2):
        split.score(other)
        assert split.prefills == n * len(scenes)
    # but what enters the LLM of two settings alike is
    split.score(later.with_options(alpha=0.5 + 1e-9))
    assert split.prefills == 4 * len(scenes)


def test_tokens_are_those_left_and_cost_those_run(make_split, nano_llava, scenes):
    """On 4 layers: FastV's layer 2 of 32 is the first, layer 16 the second."""
    split = make_split(nano_llava, scenes)
    assert len(nano_llava.model.get_decoder().layers) == 4
    found = {
        FASTV: (11, (196 + 3 * 11) / 4),
        FASTV.with_options(layer=16): (11, (2 * 196 + 2 * 11) / 4),
        Setting.of("resprune", 64).then("fastv", 11): (11, (64 + 3 * 11) / 4),
        Setting.of("resprune", 11): (11, 11.0),
        unpruned(): (196, 196.0),
    }
    for setting, (tokens, cost) in found.items():
        assert split.tokens(setting) == tokens
        assert split.cost(setting) == cost


def test_where_t_follows_the_image_the_cost_is_a_mean(make_split, ragged, ragged_samples):
    split = make_split(ragged, ragged_samples)
    totals = np.array([len(split.visual(i).tokens) for i in range(len(split))])
    depth = len(ragged.model.get_decoder().layers)
    left = np.array([max(1, round(0.5 * total)) for total in totals.tolist()])
    setting = Setting.of("fastv", 0.5)
    assert split.tokens(setting) == round(left.mean())
    expected = (totals + (depth - 1) * left).mean() / depth
    assert split.cost(setting) == pytest.approx(expected, abs=0.01)
    energy = Setting.of("resprune", {"energy": 0.3, "most": 9, "least": 2}).then("fastv", 2)
    enter = np.array([len(plan.kept) for plan in split.plans([energy])[0]])
    assert len(set(enter.tolist())) > 1
    assert split.tokens(energy) == 2
    assert split.cost(energy) == pytest.approx((enter + (depth - 1) * 2).mean() / depth, abs=0.01)
    assert all(torch.equal(p.kept.sort().values, p.kept) for p in split.plans([energy])[0])
