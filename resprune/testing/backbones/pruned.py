"""Pruned prompts: the oracle's logits, steps and beams."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

import resprune
from resprune.attaching.attachment import Attachment
from resprune.testing.backbones.suite import Suite
from resprune.testing.calls import NEW_TOKENS, forward_logits, greedy, new_tokens
from resprune.testing.case import Case
from resprune.testing.checks import assert_close


class Pruned(Suite):
    """What a pruned prompt must answer."""

    @pytest.mark.parametrize("used", [[0], [1, 2]], ids=["one-image", "two-images"])
    def test_pruned_equals_oracle(
        self, case: Case, attached: Attachment, positions: str, used: list[int]
    ) -> None:
        """Logits are those of the kept embeddings at their positions."""
        inputs = case.one(0, used)
        found = forward_logits(case.model, inputs)
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

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
    def test_half_precision(self, case: Case, positions: str, dtype: torch.dtype) -> None:
        """In half precision the logits equal the oracle's within its rounding."""
        half = dataclasses.replace(case, model=copy.deepcopy(case.model).to(dtype))
        inputs = half.one(0, [0])
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        config = half.config(positions=positions)
        with resprune.attach(half.model, half.processor, config) as attachment:
            found = forward_logits(half.model, inputs)
            answer = new_tokens(greedy(half.model, inputs), inputs)
        assert found.dtype == dtype
        assert attachment.last is not None
        with torch.no_grad():
            built = half.oracle_embeddings(inputs, attachment.last.kept, positions)
            expected = half.oracle_logits(*built)
        finer = 1.0 if dtype == torch.bfloat16 else 0.25
        assert_close(found, expected, case.bf16_tolerance * finer)
        assert len(answer[0]) == NEW_TOKENS
