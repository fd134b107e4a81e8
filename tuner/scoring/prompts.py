"""The token ids of a split's prompts, and of their gold answers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from resprune.backbones import Backbone
from tuner.scoring.visual import inputs_of
from tuner.tasks import Sample

_AT_ONCE = 64


class Prompts:
    """Ids of every sample's prompt, alone and with its gold answer.

    Args:
        backbone: Its processor makes the ids.
        samples: N samples.

    Attributes:
        ids: Prompt of each sample, placeholders expanded, shape (S_i,).
        gold: The same with the gold answer behind it; without one, the prompt.
    """

    def __init__(self, backbone: Backbone, samples: Sequence[Sample]) -> None:
        self._backbone = backbone
        self._samples = samples
        self.ids = self._prompt_ids(samples)
        self.gold = self._with([s.answers[0] if s.answers else "" for s in samples])

    def with_answers(self, answers: Sequence[str]) -> Prompts:
        """Return the same prompts with other answers, one a sample, as the gold ones."""
        other = copy(self)
        other.gold = self._with(answers)
        return other

    def _with(self, answers: Sequence[str]) -> list[Tensor]:
        return [
            torch.cat([ids, self._answer_ids(sample, answer)])
            for ids, sample, answer in zip(self.ids, self._samples, answers, strict=True)
        ]

    def answer(self, i: int) -> Tensor:
        """Return the ids of a sample's gold answer, empty without one."""
        return self.gold[i][len(self.ids[i]) :]

    def _prompt_ids(self, samples: Sequence[Sample]) -> list[Tensor]:
        found: list[Tensor] = []
        for start in range(0, len(samples), _AT_ONCE):
            part = samples[start : start + _AT_ONCE]
            batch, _ = inputs_of(self._backbone, part)
            for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                found.append(row[mask.bool()].cpu())
        return found

    def _answer_ids(self, sample: Sample, answer: str) -> Tensor:
        """Tokenise an answer as the chat template would write it after the prompt."""
        if not answer:
            return torch.empty(0, dtype=torch.long)
        images = len(sample.pictures)
        prompt = self._backbone.chat_prompt(sample.prompt, images)
        question = [{"type": "image"}] * images + [{"type": "text", "text": sample.prompt}]
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        rest = str(self._backbone.processor.apply_chat_template(turns)).removeprefix(prompt)
        # Up to two characters (a space, a line break) may stand before it; a template that writes
        # the assistant's turn in another way gets the bare answer.
        end = rest.find(answer)
        text = rest[: end + len(answer)] if 0 <= end <= 2 else answer
        tokenizer = self._backbone.processor.tokenizer
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        after = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        return torch.tensor(after[len(before) :], dtype=torch.long)
