"""Question forms: how a prompt is worded, whatever things it names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from resprune.alpha.features import MAX_CHARS, MAX_WORDS, Tagged

_WORD = re.compile(r"[\w']+")
_NAMING = frozenset({"NOUN", "PROPN", "ADJ", "NUM"})
_MASK = "_"


def question_form(question: str, tags: Sequence[Tagged]) -> str:
    """Return how a question is worded, with what it names masked.

    'What color is the star?' and 'What color is the moon?' both have the form
    ``what _ is the _``. Nouns, proper nouns, adjectives and numbers are masked, but not 'many' and
    'much', which ask; masks that follow each other are one. Case and punctuation do not count, and
    neither does 'an' for 'a', which hangs on the word that follows.

    Args:
        question: The user's question; the first 4,000 characters and 256 words count.
        tags: Its tokens with parts of speech, in order.

    Returns:
        The words of the form with one blank between them; empty for a question without a word.
    """
    text = question[:MAX_CHARS]
    masked, at = [False] * len(text), 0
    for tag in tags[:MAX_WORDS]:
        start = text.find(tag.text, at)
        if start < 0:  # cut off, or a token that is not in the text
            continue
        at = start + len(tag.text)
        if tag.pos in _NAMING and tag.text.lower() not in {"many", "much"}:
            masked[start:at] = [True] * (at - start)
    words: list[str] = []
    for match in list(_WORD.finditer(text))[:MAX_WORDS]:
        word = _MASK if masked[match.start()] else match.group().lower()
        if word != _MASK or words[-1:] != [_MASK]:
            words.append("a" if word == "an" else word)
    return " ".join(words)


def form_digest(form: str) -> str:
    """Return 16 hexadecimal digits that stand for a form: a config does not spell out prompts."""
    return hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
