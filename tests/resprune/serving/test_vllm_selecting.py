"""Front end and engine of the vLLM plug-in together keep what ``attach`` keeps, without vLLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

import resprune
from resprune import PruningConfig, Setting
from resprune.backbones import VisualTokens, WordVectors, for_model
from resprune.errors import ConfigError, ResPruneError, UnsupportedModelError
from resprune.nouns import NounExtractor
from resprune.processors import load_processor
from resprune.prompt import Question, read_question
from resprune.serving.vllm.asking import Asking, kept_placeholders
from resprune.serving.vllm.model import groups
from resprune.serving.vllm.selecting import Selecting
from resprune.serving.vllm.wire import (
    BUDGET,
    POLICY,
    QUESTION,
    pack_question,
    short,
    unpack_question,
    without_own,
)
from studies.nano import model_dir
from studies.nano.example import example_image
from tests.vllm import configs

QUESTIONS = ["What color is the star?", "How many objects are there?", "Is there a red circle?"]
CONFIG = configs.config("llava", "cls_attention", "compact", QUESTIONS)


@pytest.fixture(scope="module")
def nano() -> tuple[Any, Any]:
    model: Any = AutoModelForImageTextToText.from_pretrained(model_dir("nano-llava")).eval()
    return model, load_processor(str(model_dir("nano-llava")))


def prompt_ids(processor: Any, question: str, images: int = 1) -> list[int]:
    content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    turns = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    return list(processor.tokenizer(text)["input_ids"])


def asking(processor: Any, config: PruningConfig = CONFIG) -> Asking:
    return Asking(config, processor, processor.tokenizer.convert_tokens_to_ids("<image>"))


@pytest.mark.parametrize("row", range(len(CONFIG.table)))
def test_what_is_kept_is_what_attach_keeps(nano: tuple[Any, Any], row: int) -> None:
    model, processor = nano
    policy = CONFIG.table[row]
    budget = policy.budget
    front, backbone = asking(processor), for_model(model, processor)
    vectors = WordVectors(model.get_input_embeddings(), model.config.text_config.vocab_size)
    engine = Selecting(CONFIG, vectors, backbone.seed_signals)
    for question in QUESTIONS:
        arguments = front.arguments({BUDGET: budget}, prompt_ids(processor, question))
        packed = bytes(pack_question(front.question(arguments)).numpy())
        (chosen,) = engine.policies(torch.tensor([short(arguments[POLICY])]))
        assert chosen == policy
        text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
        )
        inputs = processor(images=example_image(), text=text, return_tensors="pt")
        images = backbone.encode(inputs, signals=engine.signals([chosen]))
        (plan,) = engine.plans(images, [chosen], [packed])
        with resprune.attach(model, processor, CONFIG, budget=budget) as attached:
            model.generate(**inputs, max_new_tokens=1)
            last = attached.last
        if not last.pruned:
            assert plan.kept.tolist() == list(range(196))
            continue
        assert plan.kept.tolist() == last.kept[0].tolist()
        assert last.questions == [question.lower()]  # as this tokenizer gives it back
        assert len(plan.kept) == kept_placeholders(policy, 196, 196)


@pytest.mark.parametrize("row", range(len(CONFIG.table)))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_touch_their_own_image_alone(
    nano: tuple[Any, Any], row: int, value: float
) -> None:
    model, processor = nano
    policy = CONFIG.table[row]
    vectors = WordVectors(model.get_input_embeddings(), model.config.text_config.vocab_size)
    engine = Selecting(CONFIG, vectors, for_model(model, processor).seed_signals)
    draw = torch.Generator().manual_seed(0)
    signal = {"cls_attention": torch.rand(196, generator=draw)}
    width = model.get_input_embeddings().weight.shape[1]
    tokens = [torch.randn(196, width, generator=draw) for _ in range(3)]
    images = [VisualTokens(rows, signal, (14, 14)) for rows in tokens]
    asked = [bytes(pack_question(Question("a star")).numpy())] * 3
    healthy = engine.plans(images, [policy] * 3, asked)
    assert engine.spent.failed == 0
    tokens[1][7, 3] = value
    plans = engine.plans(images, [policy] * 3, asked)
    assert [plans[i].kept.tolist() for i in (0, 2)] == [healthy[i].kept.tolist() for i in (0, 2)]
    assert len(plans[1].kept) == len(set(plans[1].kept.tolist())) == policy.budget.limit(196)
    assert engine.spent.images == 6
    assert engine.spent.failed == 1
    assert "finite" in engine.spent.why
    assert plans[1].positions == policy.positions
    k = policy.budget.limit(196)
    assert plans[1].kept.tolist() == [(2 * i + 1) * 196 // (2 * k) for i in range(k)]


def test_a_fault_of_the_config_is_no_image_s() -> None:
    vectors = WordVectors(torch.nn.Embedding(9, 4))
    image = VisualTokens(torch.randn(6, 4), {}, (2, 3))
    packed = bytes(pack_question(Question()).numpy())
    config = PruningConfig.single(2, method="cls_attention", positions="compact")
    with pytest.raises(UnsupportedModelError, match="needs 'cls_attention'"):
        Selecting(config, vectors, ()).plans([image] * 2, config.table * 2, [packed] * 2)


def test_a_question_survives_its_way() -> None:
    processor = load_processor(str(model_dir("nano-llava")))
    ids = asking(processor)._word_ids
    read = read_question("Où est l'étoile 星?", NounExtractor("resprune_en_nouns"), ids)
    again = unpack_question(bytes(pack_question(read).numpy()))
    assert (again.text, list(again.tags), list(again.spans)) == (
        read.text,
        list(read.tags),
        list(read.spans),
    )
    assert [list(word) for word in again.words] == [list(word) for word in read.words]
    assert unpack_question(bytes(pack_question(Question()).numpy())) == Question()


def test_the_question_is_hashed_only_where_it_is_read(nano: tuple[Any, Any]) -> None:
    front = asking(nano[1])
    kinds = list(configs.table("l2_norm", "compact", None))
    reads = {"signal", "l2_norm seed", "relevance seed", "no seed", "pooled", "adaptive"}
    reads |= {"cdpruner", "random", "relevance"}
    for kind, policy in zip(kinds, CONFIG.table, strict=True):
        found = [
            front.arguments({BUDGET: policy.budget, "size": 7}, prompt_ids(nano[1], question))
            for question in QUESTIONS[:2]
        ]
        assert without_own(found[0]) == {"size": 7}
        assert (found[0] != found[1]) == (kind in reads), kind
        assert (QUESTION in found[0]) == (kind in reads)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({BUDGET: 7}, "budget 7 is not"),
        ({QUESTION: "x"}, "cannot be given"),
        ({POLICY: "0"}, "cannot"),
    ],
)
def test_what_a_request_may_not_ask(nano: tuple[Any, Any], given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asking(nano[1]).arguments(given, [1, 2])


def test_another_config_in_the_engine_is_an_error(nano: tuple[Any, Any]) -> None:
    front = asking(nano[1])
    arguments = front.arguments({}, prompt_ids(nano[1], QUESTIONS[0]))
    other = PruningConfig.single(43, alpha=0.5, positions="compact")
    engine = Selecting(other, WordVectors(nano[0].get_input_embeddings()), ())
    with pytest.raises(ResPruneError, match="different pruning configs"):
        engine.policies(torch.tensor([short(arguments[POLICY])]))


def test_placeholders_are_known_from_the_size() -> None:
    count, ratio = Setting.of("l2_norm", 43), Setting.of("l2_norm", 0.25)
    assert kept_placeholders(count, 196, 196) == 43
    assert kept_placeholders(count, 40, 44) == 44  # all tokens, and the newline tokens with them
    assert kept_placeholders(ratio, 588, 602) == 147
    assert kept_placeholders(ratio, 1, 1) == 1
    assert kept_placeholders(Setting.of("unpruned", 1.0), 588, 602) == 602


def test_words_are_ranked_by_the_tokens_of_the_table_alone(nano: tuple[Any, Any]) -> None:
    table = nano[0].get_input_embeddings()
    padded = torch.nn.Embedding(table.weight.shape[0] + 64, table.weight.shape[1])
    with torch.no_grad():
        padded.weight[: len(table.weight)] = table.weight
        padded.weight[len(table.weight) :] = 100.0  # vLLM pads the table of a vocabulary
    own, theirs = WordVectors(table), WordVectors(padded, len(table.weight))
    assert own.rarity([[5, 6], [7]]) == theirs.rarity([[5, 6], [7]])


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        ([], 100, []),
        ([576, 576, 576, 576], 2048, [(0, 3), (3, 4)]),
        ([576, 576], 100, [(0, 1), (1, 2)]),
        ([10, 2000, 10, 10], 100, [(0, 1), (1, 2), (2, 4)]),
        ([40, 60, 1], 100, [(0, 2), (2, 3)]),
    ],
)
def test_the_tower_takes_no_more_at_once_than_unpruned(
    counts: list[int], most: int, expected: list[tuple[int, int]]
) -> None:
    assert groups(counts, most) == expected
