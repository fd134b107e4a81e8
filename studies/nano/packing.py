"""Several questions behind one image in one pass, each blind to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from studies.nano.chat import Chat, llava_chat
from studies.nano.families import chat_of
from studies.nano.questions import Question
from studies.nano.scenes import PATCHES


@dataclass(frozen=True)
class PackedQuestions:
    """Token ids (B, Q, L) of prompt tail, answer and end, right-padded; tail lengths (B, Q)."""

    ids: torch.Tensor
    lengths: torch.Tensor


def pack(questions: Sequence[Sequence[Question]], way: Chat | None = None) -> PackedQuestions:
    """Tokenise the same number of questions for each image of a batch; nano-llava's way if none."""
    way = way or llava_chat()
    tokenizer = way.processor.tokenizer
    ids = torch.zeros(len(questions), len(questions[0]), way.tail_length, dtype=torch.long)
    lengths = torch.zeros(ids.shape[:2], dtype=torch.long)
    for i, asked in enumerate(questions):
        for j, q in enumerate(asked):
            answer = tokenizer.convert_tokens_to_ids([q.answer, way.end])
            tail = [*way.prompt(q.text)[1], *answer]
            ids[i, j, : len(tail)] = torch.tensor(tail)
            lengths[i, j] = len(tail) - 2
    return PackedQuestions(ids, lengths)


@lru_cache(maxsize=256)
def _branch_mask(shared: int, questions: int, length: int) -> torch.Tensor:
    """(1, 1, S, S) additive mask: causal, and a question sees the image and itself only."""
    branch = torch.cat(
        [torch.full((shared,), -1), torch.arange(questions).repeat_interleave(length)]
    )
    order = torch.arange(len(branch))
    seen = (order[:, None] >= order[None]) & ((branch[None] == -1) | (branch[:, None] == branch))
    return torch.zeros(seen.shape).masked_fill(~seen, -1e9)[None, None]


@dataclass(frozen=True)
class Predictions:
    """Logits (B, Q, V) and right ids (B, Q) of the answer and of the end token after it."""

    answer_logits: torch.Tensor
    answers: torch.Tensor
    end_logits: torch.Tensor
    ends: torch.Tensor


def predict(
    model: Any,
    tokens: torch.Tensor,
    patches: torch.Tensor,
    questions: PackedQuestions,
    placeholders: torch.Tensor | None = None,
) -> Predictions:
    """Run the language model on kept visual tokens and packed questions.

    Args:
        model: one of the embedded models.
        tokens: (B, k, d) visual tokens, in raster order.
        patches: (B, k) which of the image's placeholders each is (a patch, where there are no
            others); positions are those of the unpruned prompt.
        questions: for the same B images.
        placeholders: (B,) how many the unpruned prompt has; 196 if not given.
    """
    language_model, ids, way = model.model.language_model, questions.ids, chat_of(model)
    batch, count, length = ids.shape
    prefix = torch.tensor(way.prefix).expand(batch, -1)
    shared = prefix.shape[1] + tokens.shape[1]
    embed = language_model.embed_tokens
    inputs = torch.cat([embed(prefix), tokens, embed(ids.reshape(batch, -1))], 1)
    ending = torch.full((batch,), PATCHES) if placeholders is None else placeholders
    hidden = language_model(
        inputs_embeds=inputs,
        attention_mask=_branch_mask(shared, count, length).expand(batch, 1, -1, -1),
        position_ids=way.place(patches, torch.arange(length).repeat(count), ending),
        use_cache=False,
    ).last_hidden_state[:, shared:]
    hidden = hidden.reshape(batch, count, length, -1)

    def at(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        where = index[..., None, None].expand(-1, -1, 1, hidden.shape[-1])
        logits = model.lm_head(hidden.gather(2, where).squeeze(2))
        return logits, ids.gather(2, index[..., None] + 1).squeeze(2)

    last = questions.lengths - 1
    return Predictions(*at(last), *at(last + 1))
