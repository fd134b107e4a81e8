"""Several questions behind one image in one pass, each blind to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from studies.nano.processor import EOS, IMAGE, build_processor, chat
from studies.nano.questions import TEMPLATES, Question, render
from studies.nano.scenes import COLOR_NAMES, PATCHES, SHAPES


@lru_cache(maxsize=1)
def _processor() -> Any:
    return build_processor()


@lru_cache(maxsize=4096)
def _prompt(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids before and after the image of the rendered chat prompt, as the processor gives them."""
    processor = _processor()
    rendered = processor.apply_chat_template(chat(text), add_generation_prompt=True)
    ids = processor.tokenizer(rendered)["input_ids"]
    at = ids.index(processor.tokenizer.convert_tokens_to_ids(IMAGE))
    return tuple(ids[:at]), tuple(ids[at + 1 :])


@lru_cache(maxsize=1)
def prefix_ids() -> tuple[int, ...]:
    """Token ids in front of the image."""
    return _prompt("Is there a star?")[0]


@lru_cache(maxsize=1)
def tail_length() -> int:
    """Longest prompt behind the image over all wordings, with the answer and the end token."""
    texts = {
        render(template, subject)
        for templates in TEMPLATES.values()
        for template in templates
        for subject in (*SHAPES, *COLOR_NAMES)
    }
    return max(len(_prompt(text)[1]) for text in texts) + 2


@dataclass(frozen=True)
class PackedQuestions:
    """Token ids (B, Q, L) of prompt tail, answer and end, right-padded; tail lengths (B, Q)."""

    ids: torch.Tensor
    lengths: torch.Tensor


def pack(questions: Sequence[Sequence[Question]]) -> PackedQuestions:
    """Tokenise the same number of questions for each image of a batch."""
    tokenizer = _processor().tokenizer
    ids = torch.zeros(len(questions), len(questions[0]), tail_length(), dtype=torch.long)
    lengths = torch.zeros(ids.shape[:2], dtype=torch.long)
    for i, asked in enumerate(questions):
        for j, q in enumerate(asked):
            tail = [*_prompt(q.text)[1], *tokenizer.convert_tokens_to_ids([q.answer, EOS])]
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
        model: a `LlavaForConditionalGeneration` or `LlavaNextForConditionalGeneration`.
        tokens: (B, k, d) visual tokens, in raster order.
        patches: (B, k) which of the image's placeholders each is (a patch, where there are no
            others); positions are those of the unpruned prompt.
        questions: for the same B images.
        placeholders: (B,) how many the unpruned prompt has; 196 if not given.
    """
    language_model, ids = model.model.language_model, questions.ids
    batch, count, length = ids.shape
    prefix = torch.tensor(prefix_ids()).expand(batch, -1)
    start, shared = prefix.shape[1], prefix.shape[1] + tokens.shape[1]
    embed = language_model.embed_tokens
    inputs = torch.cat([embed(prefix), tokens, embed(ids.reshape(batch, -1))], 1)
    ending = torch.full((batch,), PATCHES) if placeholders is None else placeholders
    tail = (start + ending[:, None] + torch.arange(length)).repeat(1, count)
    positions = torch.cat([torch.arange(start).expand(batch, -1), start + patches, tail], 1)
    hidden = language_model(
        inputs_embeds=inputs,
        attention_mask=_branch_mask(shared, count, length).expand(batch, 1, -1, -1),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state[:, shared:]
    hidden = hidden.reshape(batch, count, length, -1)

    def at(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        where = index[..., None, None].expand(-1, -1, 1, hidden.shape[-1])
        logits = model.lm_head(hidden.gather(2, where).squeeze(2))
        return logits, ids.gather(2, index[..., None] + 1).squeeze(2)

    last = questions.lengths - 1
    return Predictions(*at(last), *at(last + 1))
