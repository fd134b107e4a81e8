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


class Chat:
    """How a model's prompts are laid out; this is nano-llava's way."""

    image, end = IMAGE, EOS

    def __init__(self, processor: Any = None) -> None:
        self.processor = build_processor() if processor is None else processor
        self._prompts: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.prefix = self.prompt("Is there a star?")[0]
        """Token ids in front of the image."""
        texts = {
            render(template, subject)
            for templates in TEMPLATES.values()
            for template in templates
            for subject in (*SHAPES, *COLOR_NAMES)
        }
        self.tail_length = max(len(self.prompt(text)[1]) for text in texts) + 2
        """Longest prompt behind the image over all wordings, with the answer and the end token."""

    def prompt(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids before and after the image of the rendered prompt, as the processor gives them."""
        if text not in self._prompts:
            rendered = self.processor.apply_chat_template(chat(text), add_generation_prompt=True)
            ids = self.processor.tokenizer(rendered)["input_ids"]
            at = ids.index(self.processor.tokenizer.convert_tokens_to_ids(self.image))
            self._prompts[text] = tuple(ids[:at]), tuple(ids[at + 1 :])
        return self._prompts[text]

    def place(
        self, patches: torch.Tensor, tail: torch.Tensor, placeholders: torch.Tensor
    ) -> torch.Tensor:
        """Positions (B, S), or (3, B, S), of prefix, kept patches (B, k) and tails.

        Args:
            patches: which of the image's placeholders are kept.
            tail: (L,) places behind the image.
            placeholders: (B,) how many the unpruned prompt has.
        """
        batch, start = len(patches), len(self.prefix)
        front = torch.arange(start).expand(batch, -1)
        return torch.cat([front, start + patches, start + placeholders[:, None] + tail], 1)


@lru_cache(maxsize=1)
def _llava_chat() -> Chat:
    return Chat()


def chat_of(model: Any) -> Chat:
    """Return how the prompts of a model are laid out, by its type."""
    if model.config.model_type == "qwen2_5_vl":
        from studies.nano.qwen_chat import qwen_chat

        return qwen_chat()
    return _llava_chat()


@dataclass(frozen=True)
class PackedQuestions:
    """Token ids (B, Q, L) of prompt tail, answer and end, right-padded; tail lengths (B, Q)."""

    ids: torch.Tensor
    lengths: torch.Tensor


def pack(questions: Sequence[Sequence[Question]], way: Chat | None = None) -> PackedQuestions:
    """Tokenise the same number of questions for each image of a batch; nano-llava's way if none."""
    way = way or _llava_chat()
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
