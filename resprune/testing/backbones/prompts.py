"""Prompts: the question in them, or none, or no image."""

from __future__ import annotations

import torch

import resprune
from resprune.attaching.attachment import Attachment
from resprune.testing.backbones.suite import Suite
from resprune.testing.calls import greedy
from resprune.testing.case import QUESTIONS, Case


class Prompts(Suite):
    """The question must be the user's own words."""

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

    def test_text_only_rows_are_untouched(self, case: Case, attached: Attachment) -> None:
        """A prompt without an image passes through, and the record says so."""
        inputs = case.one(2, [])
        found = greedy(case.model, inputs)
        assert attached.last is not None
        assert not attached.last.pruned
        attached.detach()
        assert torch.equal(found, greedy(case.model, inputs))
