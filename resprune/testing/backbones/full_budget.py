"""Full budget: the unpruned model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import resprune
from resprune.testing.backbones.suite import FULL, Suite
from resprune.testing.calls import NEW_TOKENS, forward_logits
from resprune.testing.case import Case
from resprune.testing.checks import assert_close


class FullBudget(Suite):
    """Nothing that is kept whole may change."""

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_full_budget_equals_unpruned_logits(
        self, case: Case, positions: str, side: str
    ) -> None:
        """Keeping everything changes no logit, with padding on either side."""
        inputs = case.inputs([0], [1, 2], [], side=side)
        mask = inputs["attention_mask"]
        expected = forward_logits(case.model, case.positioned(inputs))
        with resprune.attach(case.model, case.processor, case.config(FULL, positions=positions)):
            found = forward_logits(case.model, inputs)
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
