"""Leaving no trace on the model and on what the caller passed."""

from __future__ import annotations

import copy

import pytest
import torch

import resprune
from resprune.attaching.attachment import Attachment
from resprune.testing.backbones.suite import Suite
from resprune.testing.calls import forward_logits, greedy
from resprune.testing.case import Case
from resprune.testing.checks import footprint


class NoTrace(Suite):
    """Detaching must leave the model, and a call its inputs, as they were."""

    def test_the_model_is_the_same_after_detach(self, case: Case) -> None:
        """Detaching leaves weights, hooks, attributes and tokens as before."""
        inputs = case.inputs([0], [1, 2])
        expected = greedy(case.model, inputs)  # transformers puts hooks of its own on a first use
        before, weights = footprint(case.model), copy.deepcopy(case.model.state_dict())
        with resprune.attach(case.model, case.processor, case.config()):
            greedy(case.model, inputs)
            forward_logits(case.model, inputs)
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
        forward_logits(case.model, inputs)
        assert inputs.keys() == before.keys()
        assert all(torch.equal(inputs[name], before[name]) for name in before)
