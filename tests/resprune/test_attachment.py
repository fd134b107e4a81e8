"""What attach does to calls, beyond the conformance suite."""

from __future__ import annotations

import copy
import functools
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

import resprune
from resprune import Adaptive, PruningConfig, Setting, methods
from resprune.alpha import AlphaPredictor, form_digest
from resprune.attaching.call import Call
from resprune.config import BackboneRef
from resprune.errors import ConfigError, ResPruneError, UnsupportedModelError
from resprune.nouns import NounExtractor, pipelines
from resprune.prompt import Prompt
from resprune.testing.calls import greedy, new_tokens
from resprune.testing.case import QUESTIONS, Case

ROWS = (
    Setting.of("resprune", 5, alpha=0.75, seed_strategy="cls_attention"),
    Setting.of("resprune", 0.5, alpha=1.0, seed_strategy="l2_norm"),
    Setting.of("resprune", 99, alpha=0.0, seed_strategy="none"),
)
CONFIG = PruningConfig.from_dict({"table": ROWS, "default": 5})


@pytest.fixture(scope="module")
def case(tiny_llava: tuple[Any, Any], images: list[Image.Image]) -> Case:
    model, processor = tiny_llava
    return Case(model, processor, images)


@pytest.fixture
def handle(case: Case) -> Iterator[resprune.Attachment]:
    with resprune.attach(case.model, case.processor, CONFIG) as attachment:
        yield attachment


def logits(case: Case, inputs: dict[str, Any], **options: Any) -> Any:
    with torch.no_grad():
        return case.model(**inputs, **options)


# -- the record --------------------------------------------------------------------------------


def test_record(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.inputs([0], [], [1, 2])
    greedy(case.model, inputs)
    record = handle.last
    assert record is not None
    assert record.pruned
    assert record.rows == [0, 2, 2]
    assert record.questions == [
        "What color is the dog on the left?",
        "",
        "Is there a fire hydrant near the table?",
    ]
    assert record.nouns[0] == ["color", "dog", "left"]
    assert record.nouns[1] == []
    assert record.policy == ROWS[0]
    assert record.settings == [ROWS[0]] * 3
    assert record.visual_tokens == [16] * 3
    assert record.grids == [(4, 4)] * 3
    for kept, order in zip(record.kept, record.order, strict=True):
        assert sorted(order.tolist()) == kept.tolist()
        assert len(set(kept.tolist())) == 5
    steps = {"read_ms", "encode_ms", "select_ms", "prepare_ms", "generate_ms"}
    assert record.timings.keys() == steps
    assert all(value >= 0 for value in record.timings.values())
    image = case.backbone.image_token_id
    for row, places in enumerate(record.kept_positions):
        ids = inputs["input_ids"][row, places]
        images = record.rows.count(row)
        assert int((ids == image).sum()) == 5 * images
        text = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        assert ids[ids != image].tolist() == text[text != image].tolist()


def test_decoding_does_not_overwrite_the_record(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    output = logits(case, inputs, use_cache=True)
    record = handle.last
    token = output.logits[:, -1:].argmax(dim=-1)
    logits(case, {"input_ids": token, "past_key_values": output.past_key_values})
    assert handle.last is record


# -- overrides ---------------------------------------------------------------------------------


def test_each_call_gets_its_own_record_from_whichever_thread(
    case: Case, handle: resprune.Attachment
) -> None:
    calls = [(case.inputs([i % 3]), budget) for i in range(6) for budget in (5, 99)]

    def call(given: tuple[dict[str, Any], int]) -> Any:
        inputs, budget = given
        return handle.generate(**inputs, budget=budget, max_new_tokens=2, do_sample=False)

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(call, calls))
    for (output, record), given in zip(together, calls, strict=True):
        alone, own = call(given)
        assert torch.equal(output, alone)
        assert [kept.tolist() for kept in record.kept] == [kept.tolist() for kept in own.kept]
        assert record.policy.budget == CONFIG.policy(given[1]).budget


def test_budget_override(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    for budget, kept in ((None, 5), (0.5, 8), (99, 16), (resprune.Ratio(ratio=0.5), 8)):
        greedy(case.model, inputs, budget=budget)
        assert handle.last is not None
        assert len(handle.last.kept[0]) == kept
        logits(case, inputs, budget=budget)
        assert len(handle.last.kept[0]) == kept
    assert handle.last.policy == ROWS[1]
    for budget in (6, 0, 0.25, 5.0, "5"):
        with pytest.raises(ConfigError, match=r"it lists 5, 0\.5, 99"):
            greedy(case.model, inputs, budget=budget)


def test_alpha_override(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    greedy(case.model, inputs, alpha=4)
    assert handle.last is not None
    assert handle.last.settings == [ROWS[0].with_options(alpha=4.0)]
    for alpha in (-1, 17, float("nan"), "much", True):
        with pytest.raises(ConfigError, match="options: alpha"):
            greedy(case.model, inputs, alpha=alpha)


def test_options_override(case: Case, handle: resprune.Attachment) -> None:
    """A call's options equal a config that has them, and are checked by the method."""
    inputs = case.one(0, [0])
    options = {"alpha": 4.0, "seed_strategy": "none", "pooling": "mean"}
    for call in (greedy, lambda model, inputs, **more: logits(case, inputs, **more)):
        call(case.model, inputs, options=options)
        assert handle.last is not None
        assert handle.last.settings == [ROWS[0].with_options(**options)]
        found = handle.last.order[0].tolist()
        greedy(case.model, inputs)
        assert handle.last.order[0].tolist() != found
    handle.detach()
    own = PruningConfig.single(5, **options)
    with resprune.attach(case.model, case.processor, own) as other:
        greedy(case.model, inputs)
        assert other.last is not None
        assert other.last.order[0].tolist() == found
        for wrong, message in (
            ({"alfa": 1}, "'resprune' has no option 'alfa'. Did you mean 'alpha'"),
            ({"seed_strategy": "cls"}, "seed_strategy: unknown value 'cls'. Allowed: cls_att"),
            ({"budget": 3}, "'resprune' has no option 'budget'"),
            ({"seed_strategy": "received_attention"}, "no 'received_attention' signal"),
            (0.5, "options is 0.5; give the method's options by name"),
        ):
            with pytest.raises(ResPruneError) as caught:
                greedy(case.model, inputs, options=wrong)
            assert message in str(caught.value)
        with pytest.raises(ResPruneError, match="alpha is given twice"):
            greedy(case.model, inputs, alpha=0.5, options={"alpha": 0.5})


def test_a_method_without_alpha_refuses_it_by_name(case: Case) -> None:
    config = PruningConfig.single(5, method="divprune")
    inputs = case.one(0, [0])
    with resprune.attach(case.model, case.processor, config) as attachment:
        with pytest.raises(ConfigError, match=r"'divprune' has no option 'alpha'\. It has none"):
            greedy(case.model, inputs, alpha=0.5)
        greedy(case.model, inputs)
        assert attachment.last is not None
        assert attachment.last.settings == [Setting.of("divprune", 5)]


def test_budgets_may_have_other_methods_and_positions(case: Case) -> None:
    table = [
        Setting.of("resprune", 5),
        Setting.of("visionzip", 6, positions="compact"),
        Setting.of("resprune", {"energy": 0.3, "most": 12, "least": 2}),
        Setting.of("unpruned", 1.0),
    ]
    config = PruningConfig.from_dict({"table": table, "default": 5})
    inputs = case.inputs([0], [1, 2])
    with resprune.attach(case.model, case.processor, config) as attachment:
        for policy in table:
            found = logits(case, inputs, budget=policy.budget).logits
            greedy(case.model, inputs, budget=policy.budget)
            record = attachment.last
            assert record is not None
            assert record.policy == policy
            assert record.pruned == (policy.method != "unpruned")
            if policy.method == "visionzip":  # other positions, and features that are replaced
                assert [len(kept) for kept in record.kept] == [6] * 3
                assert record.next_positions is not None
                lengths = [len(places) for places in record.kept_positions]
                assert record.next_positions.tolist() == lengths
                handle = PruningConfig.from_dict({"table": [policy], "default": 6})
                attachment.detach()
                with resprune.attach(case.model, case.processor, handle):
                    assert torch.equal(logits(case, inputs).logits, found)
                attachment = resprune.attach(case.model, case.processor, config)
        attachment.detach()


def test_an_energy_budget_follows_the_image(case: Case) -> None:
    """As many as the energy left says, computed by projection in numpy."""
    budget = resprune.Energy(energy=0.4, most=12, least=2)
    config = PruningConfig.single(budget, alpha=0.0)
    inputs = case.inputs([0], [1, 2], [3])
    visual = case.backbone.encode(inputs)
    with resprune.attach(case.model, case.processor, config) as attachment:
        greedy(case.model, inputs)
        assert attachment.last is not None
        orders, kept = attachment.last.order, attachment.last.kept
    for image, order, keep in zip(visual, orders, kept, strict=True):
        rows = image.tokens.double().numpy()
        count = len(order)
        assert sorted(order.tolist()) == keep.tolist()

        def left(k: int, rows: Any = rows, order: Any = order) -> float:
            basis, _ = np.linalg.qr(rows[order[:k].tolist()].T)
            return float(((rows - rows @ basis @ basis.T) ** 2).sum() / (rows**2).sum())

        assert 2 <= count <= 12
        assert count == 12 or left(count) <= 0.4
        assert count == 2 or left(count - 1) > 0.4


def test_the_policy_that_does_nothing_passes_through(case: Case) -> None:
    inputs = case.inputs([0], [1, 2])
    expected, plain = greedy(case.model, inputs), logits(case, inputs).logits
    config = PruningConfig.single(1.0, method="unpruned")
    with resprune.attach(case.model, case.processor, config) as attachment:
        assert torch.equal(greedy(case.model, inputs), expected)
        assert torch.equal(logits(case, inputs).logits, plain)
        assert attachment.last is not None
        assert not attachment.last.pruned


def test_a_method_that_changes_the_image_is_refused(case: Case) -> None:
    config = PruningConfig.single(5, method="downsample")
    with pytest.raises(ConfigError, match=r"'downsample' changes the image.*resize.*resprune"):
        resprune.attach(case.model, case.processor, config)
    assert "generate" not in vars(case.model)
    table = [ROWS[0], Setting.of("downsample", 6)]
    config = PruningConfig.from_dict({"table": table, "default": 5})
    with (
        resprune.attach(case.model, case.processor, config),
        pytest.raises(ConfigError, match="'downsample' changes the image"),
    ):
        greedy(case.model, case.one(0, [0]), budget=6)


# -- adaptive policies -------------------------------------------------------------------------


def predictor(
    losses: Sequence[float], strength: float, forms: Sequence[str] | None = None
) -> AlphaPredictor:
    """Trust nothing, or let the count of nouns decide: few want the last arm, many the first."""
    linear = {
        "kind": "linear",
        "pairs": [],
        "weights": [[10.0, 0.0, -10.0]],
        "bias": [-20.0, 0.0, 20.0],
    }
    return AlphaPredictor.from_dict(
        {
            "schema_version": 3,
            "forms": None if forms is None else [form_digest(form) for form in forms],
            "features": ["noun_count"],
            "center": [0.0],
            "scale": [1.0],
            "low": [0.0],
            "high": [9.0],
            "arms": [{"alpha": alpha} for alpha in (0.0, 0.5, 4.0)],
            "budgets": [
                {
                    "budget": {"count": 5},
                    "mean_losses": list(losses),
                    "strength": strength,
                    "model": linear,
                }
            ],
        }
    )


def adaptive(strength: float = 1.0, forms: Sequence[str] | None = None) -> PruningConfig:
    arms = [ROWS[0].with_options(alpha=alpha) for alpha in (0.0, 0.5, 4.0)]
    policy = Adaptive(arms=arms, fallback=1)
    return PruningConfig.from_dict(
        {"table": [policy], "default": 5}, predictor=predictor([0.2, 0.1, 0.2], strength, forms)
    )


def test_an_adaptive_policy_chooses_an_arm_for_each_prompt(case: Case) -> None:
    """``weights`` above: one noun gives losses -10, 0, 10, three give 10, 0, -10."""
    inputs = case.inputs([0], [1, 2])
    config = adaptive()
    assert isinstance(config.policy(), Adaptive)
    query = ["Where is the cat?", "Is the dog left of the table on the street?"]
    with resprune.attach(case.model, case.processor, config) as attachment:
        greedy(case.model, inputs, query=query)
        record = attachment.last
        assert record is not None
        assert record.policy == config.policy()
        assert [len(nouns) for nouns in record.nouns] == [1, 3]
        assert [each.option("alpha") for each in record.settings] == [0.0, 4.0, 4.0]
        orders = [order.tolist() for order in record.order]
        greedy(case.model, inputs, query=query, options={"seed_strategy": "l2_norm"})
        assert attachment.last is not None
        fallback = ROWS[0].with_options(alpha=0.5, seed_strategy="l2_norm")
        assert attachment.last.policy == fallback
    for alpha, rows in ((0.0, [0]), (4.0, [1, 2])):
        fixed = PruningConfig.from_dict({"table": [ROWS[0]], "default": 5})
        with resprune.attach(case.model, case.processor, fixed) as attachment:
            greedy(case.model, inputs, query=query, alpha=alpha)
            assert attachment.last is not None
            for row in rows:
                assert attachment.last.order[row].tolist() == orders[row]


def test_a_prompt_of_an_unseen_form_gets_the_fallback_and_is_counted(case: Case) -> None:
    """One row is worded as in fitting and has two images' worth of prompts; the other is not."""
    inputs = case.inputs([0], [1, 2])
    known, other = "Where is the cat?", "Is the dog left of the table on the street?"
    config = adaptive(forms=["where is the _"])
    with resprune.attach(case.model, case.processor, config) as attachment:
        assert attachment.fallbacks == 0
        greedy(case.model, inputs, query=[known, other])
        record = attachment.last
        assert record is not None
        assert record.outside == [False, True, True]
        assert [each.option("alpha") for each in record.settings] == [0.0, 0.5, 0.5]
        assert attachment.fallbacks == 2
        case.model(**inputs, query=[other, known])
        assert attachment.last is not None
        assert attachment.last.outside == [True, False, False]
        assert attachment.fallbacks == 3
        # a setting of the call's own is no fallback
        greedy(case.model, inputs, query=other, alpha=4.0)
        assert attachment.fallbacks == 3


def test_a_predictor_that_is_not_trusted_serves_the_fallback(case: Case) -> None:
    with resprune.attach(case.model, case.processor, adaptive(strength=0.0)) as attachment:
        greedy(case.model, case.inputs([0], [1, 2]))
        assert attachment.last is not None
        assert [each.option("alpha") for each in attachment.last.settings] == [0.5] * 3


# -- what is read, and when --------------------------------------------------------------------


@pytest.fixture
def pipeline_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pipelines loaded from now on, none of which is remembered."""
    loads: list[str] = []
    load = pipelines.load.__wrapped__

    @functools.lru_cache(maxsize=4)
    def counted(name: str) -> Any:
        loads.append(name)
        return load(name)

    monkeypatch.setattr(pipelines, "load", counted)
    return loads


@pytest.mark.parametrize(
    "options", [{"method": "divprune"}, {"alpha": 0.0, "seed_strategy": "cls_attention"}]
)
def test_a_policy_that_reads_no_relevance_pays_for_no_nouns(
    case: Case, pipeline_loads: list[str], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("the question was tagged")

    config = PruningConfig.single(5, **options)
    inputs = case.inputs([0], [1, 2])
    with (
        pytest.MonkeyPatch.context() as patch,
        resprune.attach(case.model, case.processor, config) as attachment,
    ):
        patch.setattr(NounExtractor, "spans", refuse)
        greedy(case.model, inputs)
        record = attachment.last
        assert record is not None
        assert record.questions == [q.partition("\n")[0] for q in QUESTIONS[:2]]
        assert record.nouns == [[], []]
        assert [len(kept) for kept in record.kept] == [5] * 3
        assert pipeline_loads == []
        patch.undo()
        if "alpha" in options:  # a call may ask for more than the config
            greedy(case.model, inputs, alpha=0.5)
            assert attachment.last is not None
            assert attachment.last.nouns[0] == ["color", "dog", "left"]


def test_the_pipeline_is_loaded_in_attach(case: Case, pipeline_loads: list[str]) -> None:
    table = [Setting.of("divprune", 4), ROWS[0]]
    config = PruningConfig.from_dict({"table": table, "default": 4})
    with resprune.attach(case.model, case.processor, config):
        assert len(pipeline_loads) == 1
        greedy(case.model, case.one(0, [0]), budget=5)
        assert len(pipeline_loads) == 1


@pytest.mark.parametrize("how", ["nested", "adaptive"])
def test_a_device_is_not_waited_for_once_an_image(
    case: Case, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What makes a GPU wait is asked as often for six images as for one.

    The greedy itself is left out: on a CPU it takes another path. Features of an adaptive policy
    are made on the CPU, from one copy of all the images' cosines.
    """
    from resprune.methods import resprune as module

    config = PruningConfig.single(5) if how == "nested" else adaptive(strength=0.0)
    watching = [False]
    waits: Counter[str] = Counter()
    copies: set[int] = set()
    plan, order, context = Call._plan, module.greedy_order_batch, Prompt.context

    def planned(*args: Any) -> Any:
        watching[0] = True
        try:
            return plan(*args)
        finally:
            watching[0] = False

    def ordered(*args: Any, **options: Any) -> Any:
        watching[0] = False
        try:
            return order(*args, **options)
        finally:
            watching[0] = True

    def read(prompt: Prompt, cosines: Tensor) -> Any:
        copies.add(cosines.untyped_storage().data_ptr())
        watching[0] = False
        try:
            return context(prompt, cosines)
        finally:
            watching[0] = True

    def counts(inputs: dict[str, Any]) -> Counter[str]:
        waits.clear()
        copies.clear()
        with resprune.attach(case.model, case.processor, config):
            logits(case, inputs)
        return +waits

    monkeypatch.setattr(Call, "_plan", planned)
    monkeypatch.setattr(module, "greedy_order_batch", ordered)
    monkeypatch.setattr(Prompt, "context", read)
    for name in ("item", "tolist", "nonzero", "__bool__", "__int__", "__float__", "cpu"):
        original = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, original: Any = original, name: str = name) -> Any:
            waits[name] += watching[0]
            return original(self, *args)

        monkeypatch.setattr(Tensor, name, counted)
    one, six = case.one(0, [0]), case.inputs([0], [0], [0], [0, 1, 2])
    single = counts(one)
    assert single
    assert counts(six) == single
    assert len(copies) == (how == "adaptive")


def test_a_method_that_keeps_too_few_is_refused(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote the method: the count is checked where plans are made."""
    method = methods.get("divprune")
    select = type(method).select

    def fewer(self: Any, image: Any, k: int, options: Any) -> Any:
        return select(self, image, k - 2, options)

    monkeypatch.setattr(type(method), "select", fewer)
    config = PruningConfig.single(5, method="divprune")
    with (
        resprune.attach(case.model, case.processor, config),
        pytest.raises(ResPruneError, match=r"'divprune'.*exactly"),
    ):
        greedy(case.model, case.one(0, [0]))


# -- attach's own arguments --------------------------------------------------------------------


def test_a_budget_alone_takes_the_familys_defaults(case: Case) -> None:
    inputs = case.inputs([0], [1, 2])
    with resprune.attach(case.model, case.processor, budget=6) as attachment:
        greedy(case.model, inputs)
        assert attachment.last is not None
        # ResPrune, arXiv 2603.21105, for LLaVA
        paper = Setting.of("resprune", 6, alpha=0.75, seed_strategy="cls_attention")
        assert attachment.last.settings == [paper] * 3
    with resprune.attach(case.model, case.processor, budget=0.25) as attachment:
        greedy(case.model, inputs)
        assert attachment.last is not None
        assert [len(kept) for kept in attachment.last.kept] == [4] * 3
    for budget in (0, 1.5, "5"):
        with pytest.raises(ResPruneError, match="budget"):
            resprune.attach(case.model, case.processor, budget=budget)  # type: ignore[arg-type]
    with pytest.raises(ResPruneError, match=r"pass a PruningConfig.*or a budget alone"):
        resprune.attach(case.model, case.processor)


def test_a_budget_beside_a_config_is_the_default_of_calls(case: Case) -> None:
    inputs = case.one(0, [0])
    with resprune.attach(case.model, case.processor, CONFIG, budget=0.5) as attachment:
        greedy(case.model, inputs)
        assert attachment.last is not None
        assert attachment.last.policy == ROWS[1]
        greedy(case.model, inputs, budget=5)
        assert attachment.last.policy == ROWS[0]
    assert CONFIG.policy() == ROWS[0]
    with pytest.raises(ConfigError, match=r"budget 7 is not .* it lists 5, 0\.5, 99"):
        resprune.attach(case.model, case.processor, CONFIG, budget=7)


# -- the question ------------------------------------------------------------------------------


def test_query_override(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.inputs([0], [1])
    greedy(case.model, inputs, query="Where is the cat?")
    assert handle.last is not None
    assert handle.last.questions == ["Where is the cat?"] * 2
    logits(case, inputs, query=["Where is the cat?", None])
    assert handle.last.nouns == [["cat"], ["people"]]
    for query in ("", "  ", ["a", ""], ["a", 3]):
        with pytest.raises(ResPruneError, match="query of row"):
            greedy(case.model, inputs, query=query)
    with pytest.raises(ResPruneError, match="3 entries for 2 rows"):
        greedy(case.model, inputs, query=["a", "b", "c"])


def test_a_prompt_that_asks_nothing_has_relevance_one(
    case: Case, handle: resprune.Attachment
) -> None:
    """Documented: without words the choice is pure geometry, whatever alpha."""
    text = case.backbone.chat_prompt("", 1)
    inputs = case.process([text], [[case.images[0]]], "left")
    greedy(case.model, inputs, alpha=4.0)
    assert handle.last is not None
    assert (handle.last.questions, handle.last.nouns) == ([""], [[]])
    high = handle.last.order[0]
    greedy(case.model, inputs, alpha=0.0)
    assert torch.equal(handle.last.order[0], high)


def test_inputs_may_be_positional(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    expected = greedy(case.model, inputs)
    ids = inputs.pop("input_ids")
    found = case.model.generate(ids, **inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(found, expected)
    pixels, mask = inputs["pixel_values"], inputs["attention_mask"]
    with torch.no_grad():
        by_name = case.model(input_ids=ids, **inputs).logits
        assert torch.equal(case.model(ids, pixels, mask).logits, by_name)


# -- labels, and what relevance may see --------------------------------------------------------


def with_answer(case: Case, answer: str) -> dict[str, Any]:
    text = case.backbone.chat_prompt("What color is the dog?", 1) + answer
    return case.process([text], [[case.images[0]]], "left")


@pytest.mark.parametrize("supervised", ["answer", "no-image", "everything", "none"])
def test_relevance_never_sees_the_answer(
    case: Case, handle: resprune.Attachment, supervised: str
) -> None:
    kept = []
    for answer in (" a brown table", " two people near a fire hydrant"):
        inputs = with_answer(case, answer)
        ids = inputs["input_ids"]
        labels = ids.clone()
        if supervised == "answer":
            prompt = with_answer(case, "")["input_ids"].shape[1]
            labels[:, :prompt] = -100
        elif supervised == "no-image":
            labels[ids == case.backbone.image_token_id] = -100
        options = {} if supervised == "none" else {"labels": labels}
        logits(case, inputs, **options)
        assert handle.last is not None
        assert handle.last.questions == ["What color is the dog?"]
        kept.append(handle.last.order[0].tolist())
    assert kept[0] == kept[1]


def test_a_caption_is_an_answer(case: Case, handle: resprune.Attachment) -> None:
    """Without a template around it, supervised text after the image is not read either."""
    image = case.processor.image_token
    inputs = case.process([f"{image}\na brown table"], [[case.images[0]]], "left")
    labels = inputs["input_ids"].clone()
    labels[:, :18] = -100
    for value in (labels, inputs["input_ids"]):
        logits(case, inputs, labels=value)
        assert handle.last is not None
        assert "table" not in handle.last.questions[0]


def test_labels_and_logits_are_those_of_the_shortened_sequence(
    case: Case, handle: resprune.Attachment
) -> None:
    inputs = with_answer(case, " a brown table")
    labels = inputs["input_ids"].clone()
    labels[labels == case.backbone.image_token_id] = -100
    output = logits(case, inputs, labels=labels)
    assert handle.last is not None
    [places] = handle.last.kept_positions
    assert output.logits.shape[1] == len(places)
    targets = labels[0, places][1:]
    expected = torch.nn.functional.cross_entropy(output.logits[0, :-1], targets, ignore_index=-100)
    torch.testing.assert_close(output.loss, expected)
    with pytest.raises(ResPruneError, match="labels of a row have shape"):
        logits(case, inputs, labels=labels[:, 1:])


def test_gradients_reach_the_language_model(case: Case, handle: resprune.Attachment) -> None:
    inputs = with_answer(case, " a brown table")
    case.model(**inputs, labels=inputs["input_ids"]).loss.backward()
    grads = [p.grad for p in case.model.model.language_model.parameters()]
    case.model.zero_grad(set_to_none=True)
    assert any(grad is not None and float(grad.abs().sum()) > 0 for grad in grads)


# -- generate's own options --------------------------------------------------------------------


def test_max_length_counts_the_original_prompt(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    prompt = inputs["input_ids"].shape[1]
    expected = greedy(case.model, inputs)
    config = GenerationConfig(max_length=prompt + 4, do_sample=False)
    for options in (
        {"max_length": prompt + 4, "do_sample": False},
        {"generation_config": config},
        {"max_length": prompt + 4, "min_length": prompt + 2, "do_sample": False},
    ):
        assert torch.equal(case.model.generate(**inputs, **options), expected)
    assert config.max_length == prompt + 4
    with pytest.raises(ResPruneError, match=f"max_length is {prompt}"):
        case.model.generate(**inputs, max_length=prompt)


def test_the_models_own_max_length_counts_the_original_prompt(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = case.one(0, [0])
    prompt = inputs["input_ids"].shape[1]
    monkeypatch.setattr(case.model.generation_config, "max_length", prompt + 3)
    plain = case.model.generate(**inputs, do_sample=False)
    assert plain.shape[1] == prompt + 3
    with resprune.attach(case.model, case.processor, CONFIG):
        assert case.model.generate(**inputs, do_sample=False).shape == plain.shape
        assert greedy(case.model, inputs).shape[1] == prompt + 4


def test_min_length_counts_the_original_prompt(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    prompt = inputs["input_ids"].shape[1]
    first = new_tokens(greedy(case.model, inputs), inputs)[0][0]
    options = {"eos_token_id": first, "do_sample": False, "max_new_tokens": 6}
    stopped = case.model.generate(**inputs, **options)
    assert stopped.shape[1] == prompt + 1
    for minimum in (3, 5):
        found = case.model.generate(**inputs, min_length=prompt + minimum, **options)
        assert found.shape[1] >= prompt + minimum
    assert torch.equal(case.model.generate(**inputs, min_length=prompt - 1, **options), stopped)


def test_the_cache_stays_on_under_keep(case: Case, handle: resprune.Attachment) -> None:
    """Positions with gaps, no mask and no cache would be taken for packed sequences."""
    inputs = case.one(0, [0])
    expected = greedy(case.model, inputs)
    assert torch.equal(greedy(case.model, inputs, use_cache=False), expected)


def test_no_cache_under_compact(case: Case) -> None:
    inputs = case.one(0, [0])
    with resprune.attach(case.model, case.processor, case.config(positions="compact")):
        expected = greedy(case.model, inputs)
        assert torch.equal(greedy(case.model, inputs, use_cache=False), expected)


def test_without_a_mask(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    with_mask = logits(case, inputs).logits
    expected = greedy(case.model, inputs)
    del inputs["attention_mask"]
    assert torch.equal(logits(case, inputs).logits, with_mask)
    assert torch.equal(greedy(case.model, inputs), expected)


def test_streamer(case: Case, handle: resprune.Attachment) -> None:
    from transformers import TextStreamer

    class Collect(TextStreamer):
        def __init__(self) -> None:
            super().__init__(case.processor.tokenizer, skip_prompt=True)
            self.tokens: list[int] = []

        def put(self, value: Any) -> None:
            if not self.next_tokens_are_prompt:
                self.tokens += value.tolist()
            self.next_tokens_are_prompt = False

        def end(self) -> None: ...

    streamer = Collect()
    inputs = case.one(0, [0])
    found = greedy(case.model, inputs, streamer=streamer)
    assert new_tokens(found, inputs) == [streamer.tokens]


# -- what passes through, and what is refused --------------------------------------------------


def test_videos_pass_with_a_warning(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    with (
        pytest.warns(UserWarning, match="has a video, which passes through unpruned"),
        pytest.raises((TypeError, ValueError), match="pixel_values_videos"),
    ):
        # llava itself refuses videos: the call reached it as it was
        greedy(case.model, inputs, pixel_values_videos=torch.zeros(1))
    assert handle.last is not None
    assert not handle.last.pruned


def test_encoded_images_pass_through(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    features = case.model.get_image_features(pixel_values=inputs.pop("pixel_values"))
    output = logits(case, inputs, mm_encoder_outputs={"image": features})
    assert output.logits.shape[1] == inputs["input_ids"].shape[1]


def test_a_filled_cache_is_refused(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    cache = logits(case, inputs, use_cache=True).past_key_values
    for call in (logits, lambda case, inputs, **more: greedy(case.model, inputs, **more)):
        with pytest.raises(ResPruneError, match="filled cache cannot be pruned"):
            call(case, inputs, past_key_values=cache)


def test_a_pruned_cache_is_not_reused_with_the_full_ids(
    case: Case, handle: resprune.Attachment
) -> None:
    inputs = case.one(0, [0])
    cache = logits(case, inputs, use_cache=True).past_key_values
    del inputs["pixel_values"]
    with pytest.raises(ResPruneError, match="ids and cache do not match"):
        greedy(case.model, inputs, past_key_values=cache)


def test_an_empty_cache_is_welcome(case: Case, handle: resprune.Attachment) -> None:
    from transformers import DynamicCache

    inputs = case.one(0, [0])
    expected = greedy(case.model, inputs)
    found = greedy(case.model, inputs, past_key_values=DynamicCache(config=case.model.config))
    assert torch.equal(found, expected)
    with torch.no_grad():
        cache = DynamicCache(config=case.model.config)
        filled = case.model(**inputs, past_key_values=cache).past_key_values
    assert filled.get_seq_length() == inputs["input_ids"].shape[1] - 11


def test_embeddings_are_refused(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    inputs["inputs_embeds"] = case.model.get_input_embeddings()(inputs.pop("input_ids"))
    with pytest.raises(ResPruneError, match="needs input_ids"):
        logits(case, inputs)


def test_feature_options_per_call_are_refused(case: Case, handle: resprune.Attachment) -> None:
    with pytest.raises(ResPruneError, match="vision_feature_layer cannot be set per call"):
        logits(case, case.one(0, [0]), vision_feature_layer=-1)


def test_images_that_do_not_match_the_text(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    inputs["pixel_values"] = inputs["pixel_values"].repeat(2, 1, 1, 1)
    with pytest.raises(ResPruneError, match="16 image placeholders and the 2 images 32"):
        greedy(case.model, inputs)
    assert handle.last is None


# -- on and off --------------------------------------------------------------------------------


def test_attaching_twice(case: Case, handle: resprune.Attachment) -> None:
    with pytest.raises(ResPruneError, match="attached already"):
        resprune.attach(case.model, case.processor, CONFIG)
    handle.detach()
    handle.detach()
    with resprune.attach(case.model, case.processor, CONFIG) as again:
        assert again.attached
    assert not again.attached


def test_a_copy_of_an_attached_model_is_refused(case: Case, handle: resprune.Attachment) -> None:
    other = copy.deepcopy(case.model)
    for call in (lambda: greedy(other, case.one(0, [0])), lambda: other(**case.one(0, [0]))):
        with pytest.raises(ResPruneError, match="copy of an attached model"):
            call()


def test_an_instance_level_generate_is_put_back(case: Case) -> None:
    model = copy.deepcopy(case.model)
    calls = []
    plain = model.generate

    def mine(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["input_ids"].shape[1])
        return plain(*args, **kwargs)

    model.generate = mine
    inputs = case.one(0, [0])
    with resprune.attach(model, case.processor, CONFIG):
        greedy(model, inputs)
    assert calls == [inputs["input_ids"].shape[1] - 11]
    assert vars(model)["generate"] is mine


def test_a_wrapper_made_while_attached_passes_through_later(case: Case) -> None:
    model = copy.deepcopy(case.model)
    inputs = case.one(0, [0])
    expected = greedy(model, inputs)
    attachment = resprune.attach(model, case.processor, CONFIG)
    kept = model.generate
    attachment.detach()
    assert torch.equal(kept(**inputs, max_new_tokens=4, do_sample=False), expected)


def test_importing_changes_nothing() -> None:
    from transformers import LlavaForConditionalGeneration
    from transformers.generation import GenerationMixin

    assert LlavaForConditionalGeneration.generate is GenerationMixin.generate


# -- configs that do not fit -------------------------------------------------------------------


def made_for(**ref: Any) -> PruningConfig:
    ref = {"family": "llava", **ref}
    return PruningConfig.single(5, backbone=BackboneRef(**ref).model_dump())


def test_another_family_or_width_is_refused(case: Case) -> None:
    for config, message in (
        (made_for(family="qwen2_5_vl"), "made for family 'qwen2_5_vl' and the model is of family"),
        (made_for(width=4096), "embedding width 4096 and the model has 32"),
    ):
        with pytest.raises(ConfigError, match=message):
            resprune.attach(case.model, case.processor, config)
    assert "generate" not in vars(case.model)


def test_another_model_or_revision_warns(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case.model.config, "_name_or_path", "models/nano-llava")
    monkeypatch.setattr(case.model.config, "_commit_hash", "aa", raising=False)
    for ref, message in (
        ({"id": "llava-hf/llava-1.5-7b-hf"}, "model 'llava-hf/llava-1.5-7b-hf', here 'models/"),
        ({"revision": "bb"}, "revision 'bb', here 'aa'"),
        ({"visual_tokens": 576}, "visual tokens 576, here 16"),
    ):
        with pytest.warns(UserWarning, match=message) as caught:
            resprune.attach(case.model, case.processor, made_for(**ref)).detach()
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = made_for(id="nano-llava", revision="aa", visual_tokens=16, width=32)
        resprune.attach(case.model, case.processor, same).detach()


def test_the_noun_pipeline_is_pinned(case: Case) -> None:
    for nouns, message in (
        ({"pipeline": "en_core_web_xxl", "version": "1"}, "'en_core_web_xxl' is not installed"),
        ({"pipeline": "resprune_en_nouns", "version": "0.0.1"}, "pins noun pipeline .* 0.0.1 and"),
    ):
        with pytest.raises(ResPruneError, match=message):
            resprune.attach(case.model, case.processor, PruningConfig.single(5, nouns=nouns))
    assert "generate" not in vars(case.model)


def test_a_signal_that_is_not_there(case: Case) -> None:
    config = PruningConfig.single(5, seed_strategy="received_attention")
    with pytest.raises(UnsupportedModelError, match=r"no 'received_attention'.*cls_attention"):
        resprune.attach(case.model, case.processor, config)


def test_a_config_must_be_a_config(case: Case) -> None:
    with pytest.raises(ResPruneError, match="config is str; pass a PruningConfig"):
        resprune.attach(case.model, case.processor, "config")  # type: ignore[arg-type]


def test_random_differs_by_question_and_image_and_repeats(case: Case) -> None:
    config = PruningConfig.single(5, method="random")
    with resprune.attach(case.model, case.processor, config, seed=3) as attachment:
        greedy(case.model, case.inputs([0], [1, 2]))
        assert attachment.last is not None
        kept = [keep.tolist() for keep in attachment.last.kept]
        greedy(case.model, case.one(1, [1, 2]))
        assert [keep.tolist() for keep in attachment.last.kept] == kept[1:]
    assert len({tuple(keep) for keep in kept}) == 3
    with resprune.attach(case.model, case.processor, config, seed=4) as attachment:
        greedy(case.model, case.one(1, [1, 2]))
        assert attachment.last is not None
        assert [keep.tolist() for keep in attachment.last.kept] != kept[1:]
