"""What attach does to calls, beyond the conformance suite."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

import resprune
from resprune.config import BackboneRef, PruningConfig
from resprune.errors import ConfigError, ResPruneError, UnsupportedModelError
from resprune.testing.backbones import Case
from resprune.testing.calls import greedy, new_tokens

CONFIG = PruningConfig.from_dict(
    {
        "budgets": [
            {"budget": 5, "alpha": 0.75, "seed_strategy": "cls_attention"},
            {"budget": 0.5, "alpha": 1.0, "seed_strategy": "l2_norm"},
            {"budget": 99, "alpha": 0.0, "seed_strategy": "none"},
        ],
        "default_budget": 5,
    }
)


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
    assert record.alphas == [0.75] * 3
    assert record.visual_tokens == [16] * 3
    assert record.grids == [(4, 4)] * 3
    assert (record.budget, record.seed_strategy) == (5, "cls_attention")
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


def test_budget_override(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    for budget, kept in ((None, 5), (0.5, 8), (99, 16)):
        greedy(case.model, inputs, budget=budget)
        assert handle.last is not None
        assert len(handle.last.kept[0]) == kept
        logits(case, inputs, budget=budget)
        assert len(handle.last.kept[0]) == kept
    assert handle.last.alphas == [0.0]
    for budget in (6, 0, 0.25, 5.0, "5"):
        with pytest.raises(ConfigError, match=r"it lists 5, 0\.5, 99"):
            greedy(case.model, inputs, budget=budget)


def test_alpha_override(case: Case, handle: resprune.Attachment) -> None:
    inputs = case.one(0, [0])
    greedy(case.model, inputs, alpha=4)
    assert handle.last is not None
    assert handle.last.alphas == [4.0]
    for alpha in (-1, 17, float("nan"), "much"):
        with pytest.raises(ConfigError, match="alpha is"):
            greedy(case.model, inputs, alpha=alpha)


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
