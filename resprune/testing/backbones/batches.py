"""Batches: padding, images of several rows, beams."""

from __future__ import annotations

import pytest
import torch

import resprune
from resprune.attaching.attachment import Attachment
from resprune.testing.backbones.suite import Suite
from resprune.testing.calls import forward_logits, greedy, last_logits, new_tokens
from resprune.testing.case import Case
from resprune.testing.checks import assert_close


class Batches(Suite):
    """A row must not depend on the rows beside it."""

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
        together = forward_logits(case.model, inputs)
        record = attached.last
        assert record is not None
        lengths = [len(places) for places in record.kept_positions]
        kept = iter(record.kept)
        answers = new_tokens(greedy(case.model, inputs), inputs)
        for row, used in enumerate(rows):
            single = case.one(row, used)
            alone = forward_logits(case.model, single)
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
