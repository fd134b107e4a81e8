"""Bad input: odd and damaged images, wrong placeholders, budgets out of range."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

import resprune
from resprune.attaching.attachment import Attachment
from resprune.testing.backbones.suite import FULL, Suite
from resprune.testing.calls import NEW_TOKENS, forward_logits, greedy, new_tokens
from resprune.testing.case import ODD_SIZES, QUESTIONS, Case


class BadInput(Suite):
    """What nobody should send must be served or refused by name."""

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
        for call in (greedy, forward_logits):
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
