"""Conformance suite for backbones.

Point it at an adapter and a tiny model, and get pytest cases:

    class TestMine(BackboneConformance):
        @pytest.fixture(scope="class")
        def case(self) -> Case:
            return Case(model, processor, images)

What is expected is built by hand from embeddings and positions, by code that shares nothing with
``resprune.prepare``.
"""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import resprune
from resprune.attaching.attachment import Attachment
from resprune.backbones import Backbone, for_model
from resprune.config import PruningConfig

QUESTIONS = (
    "What color is the dog on the left?",
    "How many people are there?\nAnswer the question using a single word or phrase.",
    "Is there a fire hydrant near the table?",
)
ODD_SIZES = ((0, 0), (1, 1), (1, 90), (402, 2))
"""Heights and widths of images that nobody should send: nothing, a pixel, a line, a strip."""
NEW_TOKENS = 4
FULL = 1.0


@dataclass
class Case:
    """One backbone under test.

    Attributes:
        model: A tiny random model in float32 and eval mode whose generation config has no end
            token, so that lengths are known.
        processor: Its processor, with a chat template.
        images: At least four images.
        budget: Tokens to keep, fewer than any image has.
        alpha: Alpha of the pruned cases.
        seed_strategy: Seed strategy; None takes the first signal, or ``l2_norm`` without one.
        tolerance: Largest difference of logits relative to the largest logit, in float32.
        bf16_tolerance: The same in bfloat16; a quarter of it in float16, which rounds finer.
        refused_sizes: Those of ``ODD_SIZES`` (height, width) that the family's processor refuses.
        decodes_after_right_padding: Whether the model itself, unpruned, goes on rightly after a
            prompt that is padded on the right; one whose sliding windows count padding does not.
    """

    model: Any
    processor: Any
    images: Sequence[Image.Image]
    budget: int = 5
    alpha: float = 0.75
    seed_strategy: str | None = None
    tolerance: float = 1e-5
    bf16_tolerance: float = 5e-2
    refused_sizes: Collection[tuple[int, int]] = ((0, 0),)
    decodes_after_right_padding: bool = True
    backbone: Backbone = field(init=False)

    def __post_init__(self) -> None:
        self.backbone = for_model(self.model, self.processor)

    def config(self, budget: int | float | None = None, **options: Any) -> PruningConfig:
        """Make the pruning config of a case."""
        signals = self.backbone.seed_signals
        strategy: Any = self.seed_strategy or (signals[0] if signals else "l2_norm")
        return PruningConfig.single(
            self.budget if budget is None else budget,
            alpha=self.alpha,
            seed_strategy=strategy,
            **options,
        )

    def inputs(self, *rows: Sequence[int], side: str = "left") -> dict[str, Any]:
        """Process a batch.

        Args:
            *rows: The images of each row, as indices into ``images``; none is a text-only row.
            side: Padding side.

        Returns:
            The processor's output.
        """
        texts = [
            self.backbone.chat_prompt(QUESTIONS[row % len(QUESTIONS)], len(used))
            for row, used in enumerate(rows)
        ]
        images = [[self.images[i] for i in used] for used in rows]
        return self.process(texts, images, side)

    def process(
        self, texts: list[str], images: list[list[Image.Image]], side: str
    ) -> dict[str, Any]:
        """Call the processor."""
        options: dict[str, Any] = {"images": images} if any(images) else {}
        return dict(
            self.processor(
                text=texts, return_tensors="pt", padding=True, padding_side=side, **options
            )
        )

    def one(self, row: int, used: Sequence[int]) -> dict[str, Any]:
        """Process one row of ``inputs`` alone, unpadded."""
        text = self.backbone.chat_prompt(QUESTIONS[row % len(QUESTIONS)], len(used))
        return self.process([text], [[self.images[i] for i in used]], "left")

    def positioned(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Give an unpruned call the positions it should have.

        Where it is given none, the model may count padding; relative positions are what matters.

        Args:
            inputs: The processor's output.

        Returns:
            Inputs for the unpruned model.
        """
        places = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
        return {**inputs, "position_ids": places}

    # -- the oracle; override for a family with other positions or embeddings --------------

    def features(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Ask the model for the features of each image, a row a placeholder: (P_i, d) each."""
        names = [name for name in self.backbone.image_inputs if inputs.get(name) is not None]
        taken = {name: inputs[name] for name in names}
        return list(self.model.get_image_features(**taken, return_dict=True).pooler_output)

    def kept_placeholders(self, features: Tensor, keep: Tensor) -> set[int]:
        """Say which placeholders of an image stay when these of its visual tokens are kept."""
        return set(keep.tolist())

    def language_model(self) -> Any:
        """The language model without its head."""
        base = self.model.base_model
        return base.language_model if hasattr(base, "language_model") else base.text_model

    def oracle_embeddings(
        self, inputs: Mapping[str, Any], kept: Sequence[Tensor], positions: str
    ) -> tuple[Tensor, Tensor]:
        """Build the shortened prompt of one unpadded row by hand.

        Args:
            inputs: The processor's output for one row.
            kept: Kept indices of each of its images.
            positions: ``keep`` or ``compact``.

        Returns:
            Embeddings (1, n, d) and position ids (1, n).
        """
        features = self.features(inputs)
        embed = self.model.get_input_embeddings()
        chosen = [
            self.kept_placeholders(rows, keep) for rows, keep in zip(features, kept, strict=True)
        ]
        vectors, places = [], []
        image, index = 0, 0
        for place, token in enumerate(inputs["input_ids"][0].tolist()):
            if token != self.backbone.image_token_id:
                vectors.append(embed(torch.tensor(token)))
                places.append(place)
                continue
            if index in chosen[image]:
                vectors.append(features[image][index])
                places.append(place)
            index += 1
            if index == len(features[image]):
                image, index = image + 1, 0
        if positions == "compact":
            places = list(range(len(places)))
        return torch.stack(vectors)[None], torch.tensor([places])

    def oracle_logits(self, embeddings: Tensor, places: Tensor) -> Tensor:
        """Run the language model alone, without a cache: (1, n, d) -> (1, n, vocabulary)."""
        hidden = self.language_model()(
            inputs_embeds=embeddings,
            position_ids=places,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            use_cache=False,
        ).last_hidden_state
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits

    def next_place(self, places: Tensor) -> Tensor:
        """Position of the token after these."""
        return places[..., -1:] + 1

    def oracle_beams(self, embeddings: Tensor, places: Tensor, beams: int) -> list[list[int]]:
        """Beam search without a cache, every beam whole at every step.

        Args:
            embeddings: Shape (1, n, d).
            places: Position ids.
            beams: Beams kept, all of them returned.

        Returns:
            ``NEW_TOKENS`` tokens a beam, best first.
        """
        embed = self.model.get_input_embeddings()
        found: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(NEW_TOKENS):
            longer = []
            for score, tokens in found:
                vectors, where = embeddings, places
                for token in tokens:
                    vectors = torch.cat([vectors, embed(torch.tensor([[token]]))], dim=1)
                    where = torch.cat([where, self.next_place(where)], dim=-1)
                chances = self.oracle_logits(vectors, where)[0, -1].float().log_softmax(dim=-1)
                best = chances.topk(beams)
                for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                    longer.append((score + value, [*tokens, token]))
            found = sorted(longer, key=lambda entry: -entry[0])[:beams]
        return [tokens for _, tokens in found]


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare logits relative to the largest expected one."""
    assert found.shape == expected.shape
    worst = (found.float() - expected.float()).abs().max() / expected.float().abs().max()
    assert worst <= tolerance, f"relative difference {float(worst):.2e}, allowed {tolerance:.0e}"


def greedy(model: Any, inputs: Mapping[str, Any], **options: Any) -> Any:
    """Generate ``NEW_TOKENS`` tokens greedily."""
    return model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **options)


def new_tokens(output: Tensor, inputs: Mapping[str, Any]) -> list[list[int]]:
    """The tokens after the original prompt."""
    answer: list[list[int]] = output[:, inputs["input_ids"].shape[1] :].tolist()
    return answer


def last_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits at the last token of each row."""
    places = torch.arange(mask.shape[1]).expand_as(mask)
    ends = places.masked_fill(mask == 0, -1).amax(dim=1)
    return logits[torch.arange(len(ends)), ends]


def footprint(model: Any) -> dict[str, Any]:
    """Everything that attaching could leave behind."""
    hooks = {
        (name, kind): len(getattr(module, kind))
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    }
    return {
        "attributes": set(vars(model)),
        "hooks": hooks,
        "config": model.config.to_dict(),
        "generation_config": model.generation_config.to_dict(),
        "training": model.training,
    }


@torch.no_grad()
def _logits(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    logits: Tensor = model(**inputs).logits
    return logits


class BackboneConformance:
    """The suite; subclass it and give a ``case`` fixture."""

    @pytest.fixture(scope="class")
    def case(self) -> Case:
        """The backbone under test; a subclass must give it."""
        raise NotImplementedError("give a `case` fixture that returns a Case")

    @pytest.fixture(params=["keep", "compact"])
    def positions(self, request: pytest.FixtureRequest) -> str:
        """Both position policies."""
        return str(request.param)

    @pytest.fixture
    def attached(self, case: Case, positions: str) -> Iterator[Attachment]:
        """The model with pruning on."""
        with resprune.attach(
            case.model, case.processor, case.config(positions=positions)
        ) as attachment:
            yield attachment

    # -- full budget ------------------------------------------------------------------------

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_full_budget_equals_unpruned_logits(
        self, case: Case, positions: str, side: str
    ) -> None:
        """Keeping everything changes no logit, with padding on either side."""
        inputs = case.inputs([0], [1, 2], [], side=side)
        mask = inputs["attention_mask"]
        expected = _logits(case.model, case.positioned(inputs))
        with resprune.attach(case.model, case.processor, case.config(FULL, positions=positions)):
            found = _logits(case.model, inputs)
        assert_close(found[mask.bool()], expected[mask.bool()], case.tolerance)

    @pytest.mark.parametrize(
        "options",
        [
            {"do_sample": False},
            {"do_sample": True, "temperature": 1.3},
            {"do_sample": False, "num_beams": 3},
            {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
            {"do_sample": True, "num_return_sequences": 3},
        ],
        ids=["greedy", "sample", "beams", "beams-returned", "samples-returned"],
    )
    def test_full_budget_equals_unpruned_generation(
        self, case: Case, positions: str, options: dict[str, Any]
    ) -> None:
        """Keeping everything changes no token, however they are chosen."""
        inputs = case.inputs([0], [1, 2], [])
        torch.manual_seed(7)
        expected = case.model.generate(**inputs, max_new_tokens=NEW_TOKENS, **options)
        with resprune.attach(case.model, case.processor, case.config(FULL, positions=positions)):
            torch.manual_seed(7)
            found = case.model.generate(**inputs, max_new_tokens=NEW_TOKENS, **options)
        assert torch.equal(found, expected)

    # -- pruned -----------------------------------------------------------------------------

    @pytest.mark.parametrize("used", [[0], [1, 2]], ids=["one-image", "two-images"])
    def test_pruned_equals_oracle(
        self, case: Case, attached: Attachment, positions: str, used: list[int]
    ) -> None:
        """Logits are those of the kept embeddings at their positions."""
        inputs = case.one(0, used)
        found = _logits(case.model, inputs)
        record = attached.last
        assert record is not None
        assert [len(keep) for keep in record.kept] == [case.budget] * len(used)
        with torch.no_grad():
            embeddings, places = case.oracle_embeddings(inputs, record.kept, positions)
            expected = case.oracle_logits(embeddings, places)
        assert_close(found, expected, case.tolerance)
        placeholders = int((inputs["input_ids"] == case.backbone.image_token_id).sum())
        kept = sum(len(keep) for keep in record.kept)
        assert found.shape[1] == inputs["input_ids"].shape[1] - placeholders + kept

    def test_every_step_equals_an_oracle_without_cache(
        self, case: Case, attached: Attachment, positions: str
    ) -> None:
        """Decoding goes on from the right position with the right cache."""
        inputs = case.one(0, [0, 1])
        output = greedy(case.model, inputs, return_dict_in_generate=True, output_logits=True)
        record = attached.last
        assert record is not None
        answer = new_tokens(output.sequences, inputs)[0]
        assert len(answer) == NEW_TOKENS
        embed = case.model.get_input_embeddings()
        with torch.no_grad():
            embeddings, places = case.oracle_embeddings(inputs, record.kept, positions)
            for step, token in enumerate(answer):
                expected = case.oracle_logits(embeddings, places)[:, -1]
                assert_close(output.logits[step], expected, case.tolerance)
                assert token == int(expected.argmax())
                embeddings = torch.cat([embeddings, embed(torch.tensor([[token]]))], dim=1)
                places = torch.cat([places, case.next_place(places)], dim=-1)

    def test_beams_equal_an_oracle_without_cache(
        self, case: Case, attached: Attachment, positions: str
    ) -> None:
        """Beam search finds the beams of a search over hand-built embeddings."""
        inputs = case.one(0, [0])
        options = {"num_beams": 3, "num_return_sequences": 3}
        found = new_tokens(greedy(case.model, inputs, **options), inputs)
        assert attached.last is not None
        with torch.no_grad():
            built = case.oracle_embeddings(inputs, attached.last.kept, positions)
            assert found == case.oracle_beams(*built, beams=3)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_loop_by_hand_goes_on_from_the_next_positions(
        self, case: Case, attached: Attachment, side: str
    ) -> None:
        """With the handle's positions a padded batch decodes as ``generate`` does alone."""
        if side == "right" and not case.decodes_after_right_padding:
            pytest.skip("the model's sliding windows count padding, pruned or not")
        rows: list[list[int]] = [[0], [1, 2], []]
        inputs = case.inputs(*rows, side=side)
        with torch.no_grad():
            output = case.model(**inputs)
            record = attached.last
            assert record is not None
            assert record.next_positions is not None
            lengths = torch.tensor([len(places) for places in record.kept_positions])
            width = output.logits.shape[1]
            column = torch.arange(width)
            left = column >= width - lengths[:, None]
            mask = (left if side == "left" else column < lengths[:, None]).long()
            logits = last_logits(output.logits, mask)
            for step in range(2):
                for row, used in enumerate(rows):
                    single = greedy(
                        case.model,
                        case.one(row, used),
                        return_dict_in_generate=True,
                        output_logits=True,
                    )
                    assert_close(logits[row][None], single.logits[step], case.tolerance)
                mask = torch.cat([mask, torch.ones(len(rows), 1, dtype=torch.long)], dim=1)
                output = case.model(
                    input_ids=logits.argmax(dim=-1, keepdim=True),
                    attention_mask=mask,
                    position_ids=record.next_positions[:, None] + step,
                    past_key_values=output.past_key_values,
                )
                logits = output.logits[:, -1]

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padded_batch_equals_one_by_one(
        self, case: Case, attached: Attachment, side: str
    ) -> None:
        """A row's logits, tokens and kept indices do not depend on its batch."""
        rows: list[list[int]] = [[0], [1, 2], [], [3]]
        inputs = case.inputs(*rows, side=side)
        together = _logits(case.model, inputs)
        record = attached.last
        assert record is not None
        lengths = [len(places) for places in record.kept_positions]
        kept = iter(record.kept)
        answers = new_tokens(greedy(case.model, inputs), inputs)
        for row, used in enumerate(rows):
            single = case.one(row, used)
            alone = _logits(case.model, single)
            width = together.shape[1]
            span = slice(width - lengths[row], width) if side == "left" else slice(lengths[row])
            assert_close(together[row, span][None], alone, case.tolerance)
            assert attached.last is not None
            for keep in attached.last.kept:
                assert torch.equal(next(kept), keep)
            assert new_tokens(greedy(case.model, single), single) == [answers[row]]

    def test_a_ratio_keeps_by_image(self, case: Case, positions: str) -> None:
        """Under a ratio images keep different counts, and beams still get their own."""
        rows: list[list[int]] = [[0], [1, 3], [], [2]]
        ratio = 0.4
        inputs = case.inputs(*rows)
        config = case.config(ratio, positions=positions)
        with resprune.attach(case.model, case.processor, config) as attachment:
            together = [
                new_tokens(greedy(case.model, inputs, num_beams=beams), inputs) for beams in (1, 3)
            ]
            record = attachment.last
            assert record is not None
            assert [len(keep) for keep in record.kept] == [
                max(1, round(ratio * count)) for count in record.visual_tokens
            ]
            for row, used in enumerate(rows):
                single = case.one(row, used)
                for beams, found in zip((1, 3), together, strict=True):
                    alone = new_tokens(greedy(case.model, single, num_beams=beams), single)
                    assert alone == [found[row]]

    def test_beams_of_a_batch_equal_one_by_one(self, case: Case, attached: Attachment) -> None:
        """Beams get the features of their own row."""
        rows: list[list[int]] = [[], [0, 3], [1]]
        inputs = case.inputs(*rows)
        together = new_tokens(greedy(case.model, inputs, num_beams=3), inputs)
        for row, used in enumerate(rows):
            single = case.one(row, used)
            assert new_tokens(greedy(case.model, single, num_beams=3), single) == [together[row]]

    def test_text_only_rows_are_untouched(self, case: Case, attached: Attachment) -> None:
        """A prompt without an image passes through, and the record says so."""
        inputs = case.one(2, [])
        found = greedy(case.model, inputs)
        assert attached.last is not None
        assert not attached.last.pruned
        attached.detach()
        assert torch.equal(found, greedy(case.model, inputs))

    def test_every_seed_strategy_works(self, case: Case) -> None:
        """The family's signals and what needs none; another signal says what to use instead."""
        inputs = case.one(0, [0, 1])
        offered = case.backbone.seed_signals
        for strategy in (*offered, "l2_norm", "relevance", "none"):
            config = dataclasses.replace(case, seed_strategy=strategy).config()
            with resprune.attach(case.model, case.processor, config) as attachment:
                _logits(case.model, inputs)
                assert attachment.last is not None
                assert [len(order) for order in attachment.last.order] == [case.budget] * 2
        for name in {"cls_attention", "received_attention"} - set(offered):
            with pytest.raises(resprune.ResPruneError, match=f"no '{name}' signal.*l2_norm"):
                case.backbone.encode(inputs, signals=[name])

    def test_images_are_described(self, case: Case) -> None:
        """Lengths are those of the ids; signals are finite scores, one a token."""
        inputs = case.inputs([0], [1, 2], [], [3])
        lengths = case.backbone.image_lengths(inputs)
        placeholders = (inputs["input_ids"] == case.backbone.image_token_id).sum(dim=1).tolist()
        assert [lengths[0], lengths[1] + lengths[2], 0, lengths[3]] == placeholders
        found = case.backbone.encode(inputs, signals=case.backbone.seed_signals)
        for visual, length in zip(found, lengths, strict=True):
            assert visual.tokens.shape[0] <= length
            assert visual.tokens.shape[1] == case.backbone.width
            assert not visual.tokens.requires_grad
            assert set(visual.signals) == set(case.backbone.seed_signals)
            for scores in visual.signals.values():
                assert scores.shape == visual.tokens.shape[:1]
                assert scores.dtype == torch.float32
                assert bool((scores.isfinite() & (scores >= 0)).all())

    def test_facts_hold_for_the_model(self, case: Case) -> None:
        """What the table of backbones says of the family is true of this model."""
        backbone = case.backbone
        known = backbone.transformers_classes
        assert not known or type(case.model).__name__ in known
        assert set(backbone.seed_signals) <= set(backbone.offered_signals)
        inputs = case.inputs([0])
        visual = backbone.encode(inputs)
        prepared = backbone.prepare(inputs, visual, [torch.arange(1)])
        flat = backbone.position_axes == "1-D"
        assert prepared.kwargs["position_ids"].ndim == (2 if flat else 3)

    # -- cost -------------------------------------------------------------------------------

    @pytest.mark.parametrize("cache", [None, "static"])
    def test_cache_is_shorter(self, case: Case, attached: Attachment, cache: str | None) -> None:
        """The cache holds the shortened prompt, growing or of fixed size."""
        inputs = case.one(0, [0])
        output = greedy(
            case.model, inputs, return_dict_in_generate=True, cache_implementation=cache
        )
        record = attached.last
        assert record is not None
        placeholders = int((inputs["input_ids"] == case.backbone.image_token_id).sum())
        shorter = placeholders - sum(len(keep) for keep in record.kept)
        prompt = inputs["input_ids"].shape[1]
        assert int(output.past_key_values.get_seq_length()) == prompt - shorter + NEW_TOKENS - 1
        keys = output.past_key_values.layers[0].keys
        assert keys.shape[-2] <= prompt - shorter + NEW_TOKENS
        assert torch.equal(output.sequences, greedy(case.model, inputs))

    def test_the_encoder_runs_once(self, case: Case, attached: Attachment) -> None:
        """Pruning adds no pass of the vision tower."""
        inputs = case.one(0, [0])
        base = case.model.base_model
        encode, calls = base.get_image_features, 0

        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return encode(*args, **kwargs)

        base.get_image_features = counting
        try:
            greedy(case.model, inputs)
        finally:
            del base.get_image_features
        assert calls == 1

    # -- leaving no trace ---------------------------------------------------------------------

    def test_the_model_is_the_same_after_detach(self, case: Case) -> None:
        """Detaching leaves weights, hooks, attributes and tokens as before."""
        inputs = case.inputs([0], [1, 2])
        expected = greedy(case.model, inputs)  # transformers puts hooks of its own on a first use
        before, weights = footprint(case.model), copy.deepcopy(case.model.state_dict())
        with resprune.attach(case.model, case.processor, case.config()):
            greedy(case.model, inputs)
            _logits(case.model, inputs)
        assert footprint(case.model) == before
        state = case.model.state_dict()
        assert state.keys() == weights.keys()
        assert all(torch.equal(state[name], weights[name]) for name in weights)
        assert torch.equal(greedy(case.model, inputs), expected)

    def test_the_model_is_the_same_after_an_exception(self, case: Case) -> None:
        """So does an exception in the with block."""
        inputs = case.inputs([0])
        greedy(case.model, inputs)
        before = footprint(case.model)
        broken = {**inputs, "pixel_values": torch.full_like(inputs["pixel_values"], torch.nan)}
        with (
            pytest.raises(resprune.ResPruneError, match="image 0"),
            resprune.attach(case.model, case.processor, case.config()),
        ):
            greedy(case.model, broken)
        assert footprint(case.model) == before

    def test_inputs_are_not_changed(self, case: Case, attached: Attachment) -> None:
        """What the caller passed stays as it was, beams included."""
        inputs = case.inputs([0], [1, 2])
        before = copy.deepcopy(inputs)
        greedy(case.model, inputs, num_beams=2)
        _logits(case.model, inputs)
        assert inputs.keys() == before.keys()
        assert all(torch.equal(inputs[name], before[name]) for name in before)

    # -- the prompt and the places -------------------------------------------------------------

    def test_question_is_recovered(self, case: Case) -> None:
        """The question comes out of the ids without template and format."""
        inputs = case.inputs([0], [1, 2], [3])
        found = [case.backbone.question(row) for row in inputs["input_ids"]]
        assert [text.casefold().split() for text in found] == [
            question.split("\n")[0].casefold().split() for question in QUESTIONS
        ]

    def test_an_answer_is_never_part_of_the_question(self, case: Case) -> None:
        """What follows the user's turn does not reach the relevance."""
        text = case.backbone.chat_prompt(QUESTIONS[0], 1) + " a brown table"
        inputs = case.process([text], [[case.images[0]]], "left")
        found = case.backbone.question(inputs["input_ids"][0])
        assert found.casefold().split() == QUESTIONS[0].casefold().split()

    def test_boxes_tile_the_view(self, case: Case) -> None:
        """The boxes of one view leave nothing out and cover nothing twice."""
        inputs = case.inputs([0], [1, 2], [3])
        sizes = [(image.height, image.width) for image in case.images[:4]]
        found = case.backbone.encode(inputs, image_sizes=sizes)
        assert len(found) == len(sizes)
        for visual in found:
            assert visual.boxes is not None
            places = visual.tile_row_column()
            assert len(places) == len(visual.boxes) == len(visual.tokens)
            if visual.grid != (0, 0):
                assert len(visual.tokens) == visual.grid[0] * visual.grid[1]
            for tile in torch.unique(places[:, 0]).tolist():
                mine = places[:, 0] == tile
                lines = [torch.unique(places[mine, axis]).tolist() for axis in (1, 2)]
                cells = places[mine, 1:].tolist()
                assert cells == [[row, column] for row in lines[0] for column in lines[1]]
                rows, columns = (len(line) for line in lines)
                boxes = visual.boxes[mine].view(rows, columns, 4)
                assert bool((boxes[..., 2] > boxes[..., 0]).all())
                assert bool((boxes[..., 3] > boxes[..., 1]).all())
                # neighbours share an edge, so nothing is left out and nothing is covered twice
                torch.testing.assert_close(boxes[:, :-1, 2], boxes[:, 1:, 0])
                torch.testing.assert_close(boxes[:-1, :, 3], boxes[1:, :, 1])
                torch.testing.assert_close(boxes[:, :, 1], boxes[:, :1, 1].expand(rows, columns))
                torch.testing.assert_close(boxes[:, :, 0], boxes[:1, :, 0].expand(rows, columns))

    # -- bad input ------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", ODD_SIZES, ids=str)
    def test_odd_images(self, case: Case, size: tuple[int, int]) -> None:
        """They are pruned like any other image, unless the processor refuses them."""
        image = Image.new("RGB", size[::-1], (90, 10, 200))
        text = case.backbone.chat_prompt(QUESTIONS[0], 1)
        if size in case.refused_sizes:
            with pytest.raises((ValueError, ZeroDivisionError)):
                case.process([text], [[image]], "left")
            return
        inputs = case.process([text], [[image]], "left")
        visual = case.backbone.encode(inputs, image_sizes=[size])[0]
        assert visual.boxes is not None
        assert visual.boxes.shape == (len(visual.tokens), 4)
        assert bool(visual.boxes.isfinite().all())
        expected = greedy(case.model, inputs)
        with resprune.attach(case.model, case.processor, case.config(FULL)):
            assert torch.equal(greedy(case.model, inputs), expected)
        with resprune.attach(case.model, case.processor, case.config()) as attachment:
            answer = new_tokens(greedy(case.model, inputs), inputs)
            assert attachment.last is not None
            assert len(attachment.last.kept[0]) == min(case.budget, len(visual.tokens))
        assert len(answer[0]) == NEW_TOKENS

    def test_a_truncated_file_is_the_processors_error(self, case: Case) -> None:
        """It never reaches the model."""
        stored = io.BytesIO()
        case.images[0].save(stored, "JPEG")
        half = Image.open(io.BytesIO(stored.getvalue()[: len(stored.getvalue()) // 2]))
        with pytest.raises(OSError, match="truncated"):
            case.process([case.backbone.chat_prompt(QUESTIONS[0], 1)], [[half]], "left")

    @pytest.mark.parametrize("change", ["one-less", "one-more"])
    def test_placeholders_that_do_not_match_the_images(
        self, case: Case, attached: Attachment, change: str
    ) -> None:
        """They are refused by name, whether generating or not."""
        inputs = case.one(0, [0, 1])
        ids = inputs["input_ids"].clone()
        image = case.backbone.image_token_id
        last = int((ids[0] == image).nonzero()[-1])
        if change == "one-less":
            ids[0, last] = ids[0, -1]
        else:
            ids[0, last + 1] = image
        for call in (greedy, _logits):
            with pytest.raises(resprune.ResPruneError, match="placeholders"):
                call(case.model, {**inputs, "input_ids": ids})

    def test_budgets_out_of_range(self, case: Case) -> None:
        """None is taken for another; more than there are keeps them all."""
        for budget in (0, -1, 0.0, -0.5, 1.5):
            with pytest.raises(resprune.ResPruneError, match="budget"):
                case.config(budget)
        inputs = case.one(0, [0])
        expected = greedy(case.model, inputs)
        with resprune.attach(case.model, case.processor, case.config(100_000)) as attachment:
            assert torch.equal(greedy(case.model, inputs), expected)
            assert attachment.last is not None
            assert [len(keep) for keep in attachment.last.kept] == attachment.last.visual_tokens
            for budget in (0, -1):
                with pytest.raises(resprune.ResPruneError, match="budget"):
                    greedy(case.model, inputs, budget=budget)

    def test_a_prompt_that_asks_nothing(self, case: Case) -> None:
        """Without words relevance is one everywhere: the choice is that of alpha 0."""
        inputs = case.process([case.backbone.chat_prompt("", 1)], [[case.images[0]]], "left")
        with resprune.attach(case.model, case.processor, case.config()) as attachment:
            found = greedy(case.model, inputs)
            record = attachment.last
            assert record is not None
            assert record.questions == [""]
            assert record.nouns == [[]]
            assert torch.equal(greedy(case.model, inputs, alpha=0.0), found)
            assert attachment.last is not None
            assert torch.equal(attachment.last.order[0], record.order[0])

    # -- numbers --------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
    def test_half_precision(self, case: Case, positions: str, dtype: torch.dtype) -> None:
        """In half precision the logits equal the oracle's within its rounding."""
        half = dataclasses.replace(case, model=copy.deepcopy(case.model).to(dtype))
        inputs = half.one(0, [0])
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        config = half.config(positions=positions)
        with resprune.attach(half.model, half.processor, config) as attachment:
            found = _logits(half.model, inputs)
            answer = new_tokens(greedy(half.model, inputs), inputs)
        assert found.dtype == dtype
        assert attachment.last is not None
        with torch.no_grad():
            built = half.oracle_embeddings(inputs, attachment.last.kept, positions)
            expected = half.oracle_logits(*built)
        finer = 1.0 if dtype == torch.bfloat16 else 0.25
        assert_close(found, expected, case.bf16_tolerance * finer)
        assert len(answer[0]) == NEW_TOKENS
