"""Cost: the cache's length, passes of the vision tower."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resprune.attaching.attachment import Attachment
from resprune.testing.backbones.suite import Suite
from resprune.testing.calls import NEW_TOKENS, greedy
from resprune.testing.case import Case


class Cost(Suite):
    """Pruning must save what it promises."""

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
