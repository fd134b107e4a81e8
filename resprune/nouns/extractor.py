"""The words of a prompt and the nouns among them."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

from resprune.nouns import pipelines

STOP_NOUNS = frozenset(
    form
    for word in (
        *("image", "picture", "photo", "photograph", "pic", "scene", "illustration", "screenshot"),
        *("question", "answer", "option", "choice"),
    )
    for form in (word, word + "s")
)
"""Nouns that name the picture or the task and nothing in it; pass as ``stop_nouns`` to use them."""

_NOUN_TAGS = frozenset({"NOUN", "PROPN"})
_CONTENT_TAGS = frozenset({"VERB", "ADJ", "NUM", "ADV"})
_OPTION_LETTER = re.compile(r"^[A-Za-z][.):]?$")
_CACHED_PROMPTS = 64

_tagging = threading.Lock()


class TaggedWord(NamedTuple):
    """A word of a prompt.

    Attributes:
        text: the surface form.
        pos: universal part of speech, e.g. "NOUN".
        start: offset of its first character in the prompt.
        end: offset past its last character.
        is_stop: whether spaCy lists it as a function word.
    """

    text: str
    pos: str
    start: int
    end: int
    is_stop: bool


class NounExtractor:
    """Extracts the nouns of prompts.

    Prompts are tagged line by line, since answer options on lines of their own are no sentence.
    Option letters ("A", "B.", "c)") and words without a letter or digit are dropped. A prompt
    without nouns gives its content words (verbs, adjectives, numbers, adverbs that are no function
    words); one without those gives nothing, and every visual token is then equally relevant.

    Args:
        pipeline: name of an installed spaCy pipeline or of the embedded one
            (`resprune.nouns.EMBEDDED`); None is ``en_core_web_sm`` if installed, else the embedded.
        compounds: whether nouns that follow each other ("fire hydrant") are one.
        stop_nouns: nouns to pass over, whatever their case; see `STOP_NOUNS`.

    Raises:
        PipelineError: if the named pipeline is not installed.
    """

    def __init__(
        self,
        pipeline: str | None = None,
        *,
        compounds: bool = False,
        stop_nouns: Collection[str] = (),
    ) -> None:
        if isinstance(stop_nouns, str):
            raise TypeError(f"stop_nouns is a collection of words, got the string {stop_nouns!r}")
        self._pipeline = pipelines.resolve(pipeline)
        self._compounds = compounds
        self._stop_nouns = frozenset(word.lower() for word in stop_nouns)

    @property
    def pipeline_name(self) -> str:
        """Name of the spaCy pipeline in use."""
        return self._pipeline

    @property
    def pipeline_version(self) -> str:
        """Version of the spaCy pipeline in use."""
        return pipelines.version(self._pipeline)

    def nouns(self, prompt: str) -> list[str]:
        """The nouns as they stand in the prompt, in order, repeated ones repeated."""
        return [prompt[start:end] for start, end in self.spans(prompt)]

    def spans(self, prompt: str) -> list[tuple[int, int]]:
        """The character spans (start, end) of `nouns` in the prompt, in the same order."""
        words = self.content_tags(prompt)
        nouns = [
            word
            for word in words
            if word.pos in _NOUN_TAGS and word.text.lower() not in self._stop_nouns
        ]
        if not nouns:
            return [
                (word.start, word.end)
                for word in words
                if word.pos in _CONTENT_TAGS and not word.is_stop
            ]
        spans = [(word.start, word.end) for word in nouns]
        return _joined(spans, prompt) if self._compounds else spans

    def content_tags(self, prompt: str) -> list[TaggedWord]:
        """The tagged words of the prompt in order, without punctuation and option letters.

        The last prompts are remembered: asking for `nouns` and the tags of one prompt tags it once.
        """
        return list(_tagged(self._pipeline, prompt))


@lru_cache(maxsize=_CACHED_PROMPTS)
def _tagged(pipeline: str, prompt: str) -> tuple[TaggedWord, ...]:
    lines: list[tuple[str, int]] = []
    start = 0
    for line in prompt.splitlines(keepends=True):
        if line.strip():
            lines.append((line.rstrip(), start))
        start += len(line)
    if not lines:
        return ()
    nlp = pipelines.load(pipeline)
    with _tagging:  # a spaCy vocabulary grows as it reads and is not made for threads
        return tuple(
            TaggedWord(token.text, token.pos_, at, at + len(token.text), token.is_stop)
            for doc, offset in nlp.pipe(lines, as_tuples=True)
            for token in doc
            if _is_word(token.text)
            for at in (offset + token.idx,)
        )


def _is_word(text: str) -> bool:
    return any(map(str.isalnum, text)) and not _OPTION_LETTER.match(text)


def _joined(spans: list[tuple[int, int]], prompt: str) -> list[tuple[int, int]]:
    """Joins spans with nothing but blanks of the same line between them."""
    runs = spans[:1]
    for start, end in spans[1:]:
        between = prompt[runs[-1][1] : start]
        if not between.strip() and between.splitlines() in ([], [between]):
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs
