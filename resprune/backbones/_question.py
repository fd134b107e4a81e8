"""The question inside a row of prompt ids.

Where turns begin and end is learned by rendering a dummy conversation with the processor's own
chat template; nothing is known of particular templates. Markers are matched whatever the white
space, because tokenizers do not give it back faithfully.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

# Answer-format instructions of common evaluations (lmms-eval's tasks); not part of the question.
INSTRUCTIONS = (
    "Answer the question using a single word or phrase.",
    "Answer the question with a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
    "Please answer yes or no.",
    "Answer yes or no.",
    "When the provided information is insufficient, respond with 'Unanswerable'.",
    "请直接回答选项字母。",
)

# Used only where a processor has no chat template.
_COMMON_USER = ("USER:", "User:", "Human:", "<|im_start|>user", "<|user|>", "[INST]")
_COMMON_END = (
    "ASSISTANT:",
    "Assistant:",
    "GPT:",
    "<|im_end|>",
    "<|im_start|>assistant",
    "<|assistant|>",
    "[/INST]",
)
_TELLING_WORDS = 3  # fewer words than that could end any question
_ASKED, _ANSWERED, _ASKED_AGAIN = "resprunefirst", "respruneanswer", "resprunesecond"


@dataclass(frozen=True)
class ChatMarkers:
    """Text around user turns.

    Attributes:
        user: What begins a user turn.
        end: What ends it.
        instructions: Known answer-format instructions, as written and as the tokenizer gives them
            back.
        from_template: Whether the processor's chat template gave them.
    """

    user: tuple[str, ...]
    end: tuple[str, ...]
    instructions: tuple[str, ...]
    from_template: bool


def learn_markers(processor: Any, image_token_id: int) -> ChatMarkers:
    """Find what surrounds user turns under a processor's chat template.

    Args:
        processor: The processor.
        image_token_id: Id of the image placeholder.

    Returns:
        The markers; common role markers where the template gives none.
    """
    tokenizer = processor.tokenizer
    rendered = _render(processor)
    lines = _known_lines(tokenizer)
    if rendered is None:
        return ChatMarkers(_COMMON_USER, _COMMON_END, lines, from_template=False)
    head, between, back, tail, close = rendered
    padding = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token} - {None, ""}
    user = _common_suffix(_without(head, padding), _without(back, padding))
    end = _common_prefix(between, tail)
    users = _as_decoded([user], tokenizer)
    ends = _as_decoded([end, close], tokenizer)
    return ChatMarkers(users or _COMMON_USER, ends or _COMMON_END, lines, from_template=True)


def extract_question(
    input_ids: Tensor,
    tokenizer: Any,
    image_token_id: int,
    markers: ChatMarkers,
    *,
    closed: bool = False,
) -> str:
    """Recover the question of one row.

    Args:
        input_ids: Shape (S,), padding allowed.
        tokenizer: The processor's tokenizer.
        image_token_id: Id of the image placeholder.
        markers: What surrounds user turns.
        closed: Give the text only of a turn that a marker ends, since what follows the image may
            be an answer.

    Returns:
        The last user turn's text after its last image (all its text when nothing follows the
        image), without special tokens and known answer-format instructions. It ends at the first
        marker that ends a turn, so an assistant's answer is never part of it.
    """
    ids = _collapse(input_ids.tolist(), tokenizer.pad_token_id, image_token_id)
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    image = str(tokenizer.convert_ids_to_tokens(image_token_id))
    begins = [match.end() for marker in markers.user for match in _pattern(marker).finditer(text)]
    special = set(tokenizer.all_special_tokens) - {image}

    def turn_from(begin: int) -> str:
        turn = text[begin:]
        ends = [match.start() for marker in markers.end if (match := _pattern(marker).search(turn))]
        turn = turn[: min(ends, default=0 if closed else len(turn))]
        asked = (strip_instructions(part, markers.instructions) for part in turn.split(image))
        parts = [_tidy(_without(part, special)) for part in asked]
        return parts[-1] or "\n".join(part for part in parts if part)

    if begins:
        return turn_from(max(begins))
    after_image = text.rfind(image) + len(image) if image in text else 0
    return turn_from(after_image) or turn_from(0)


def strip_instructions(text: str, lines: tuple[str, ...] = INSTRUCTIONS) -> str:
    """Remove known answer-format instructions from the end of a prompt.

    Args:
        text: The text of a user turn.
        lines: The instructions.

    Returns:
        What is asked, stripped.
    """
    text = text.strip()
    pattern = _instruction_pattern(lines)
    while match := pattern.search(text):
        text = text[: match.start()].rstrip()
    return text


def _render(processor: Any) -> tuple[str, str, str, str, str] | None:
    """Render a dummy dialogue: (head, user-to-assistant, assistant-to-user, tail, close)."""
    if not getattr(processor, "chat_template", None):
        return None
    for wrap in (_as_parts, _as_text):
        first = {"role": "user", "content": wrap(_ASKED)}
        turns = [
            first,
            {"role": "assistant", "content": wrap(_ANSWERED)},
            {"role": "user", "content": wrap(_ASKED_AGAIN)},
        ]
        try:
            whole = processor.apply_chat_template(turns, add_generation_prompt=True)
            alone = processor.apply_chat_template([first], add_generation_prompt=False)
        except Exception:  # templates are arbitrary programs; the next form may fit
            continue
        parts = re.split(f"{_ASKED}|{_ANSWERED}|{_ASKED_AGAIN}", whole)
        if len(parts) == 4 and _ASKED in alone:
            return parts[0], parts[1], parts[2], parts[3], alone.split(_ASKED)[-1]
    return None


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _as_text(text: str) -> str:
    return text


def _collapse(ids: list[int], pad: int | None, image: int) -> list[int]:
    """Drop outer padding; one placeholder stands for a run of them."""
    start, stop = 0, len(ids)
    while start < stop and ids[start] == pad:
        start += 1
    while stop > start and ids[stop - 1] == pad:
        stop -= 1
    kept = ids[start:stop]
    return [
        token for i, token in enumerate(kept) if token != image or i == 0 or kept[i - 1] != image
    ]


def _common_prefix(a: str, b: str) -> str:
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return "".join(first for first, _ in same)


def _common_suffix(a: str, b: str) -> str:
    return _common_prefix(a[::-1], b[::-1])[::-1]


def _without(text: str, tokens: Iterable[str]) -> str:
    for token in tokens:
        text = text.replace(token, "")
    return text


def _as_decoded(markers: Iterable[str], tokenizer: Any) -> tuple[str, ...]:
    """Each marker as written and as the tokenizer gives it back (it may change case)."""
    found: dict[str, None] = {}
    for marker in markers:
        ids = tokenizer(marker.strip(), add_special_tokens=False)["input_ids"]
        again = tokenizer.decode(ids, skip_special_tokens=False)
        found.update(dict.fromkeys(text.strip() for text in (marker, again)))
    return tuple(text for text in found if text)


def _pattern(marker: str) -> re.Pattern[str]:
    """Match a marker whatever the white space, not inside a word."""
    characters = [c for c in marker if not c.isspace()]
    body = r"\s*".join(re.escape(c) for c in characters)
    left = r"(?<!\w)" if re.match(r"\w", characters[0]) else ""
    right = r"(?!\w)" if re.match(r"\w", characters[-1]) else ""
    return re.compile(left + body + right)


@lru_cache(maxsize=16)
def _instruction_pattern(lines: tuple[str, ...]) -> re.Pattern[str]:
    bodies = []
    for line in lines:
        pieces = re.findall(r"\w+|[^\w\s]", line.rstrip(".。 "))
        bodies.append(r"\s*".join(re.escape(piece) for piece in pieces))
    return re.compile(rf"(?:^|(?<=\W))(?:{'|'.join(bodies)})\s*[.。]?\s*$", re.IGNORECASE)


def _known_lines(tokenizer: Any) -> tuple[str, ...]:
    """The instructions and what becomes of them in a small vocabulary, where enough is left."""
    special = set(tokenizer.all_special_tokens)
    kept = []
    for line in _as_decoded(INSTRUCTIONS, tokenizer):
        words = re.findall(r"\w+", _without(line, special))
        if line in INSTRUCTIONS or len(words) >= _TELLING_WORDS:
            kept.append(line)
    return tuple(kept)


def _tidy(text: str) -> str:
    """Undo the spaces that word-level tokenizers put before punctuation."""
    return re.sub(r"[ \t]+([?.!,:;])", r"\1", re.sub(r"[ \t]+", " ", text)).strip()
