"""A question, read once: its nouns and their embeddings, for relevance and adaptive policies."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from torch import Tensor

from resprune.backbones import Backbone, WordIds, WordVectors

if TYPE_CHECKING:
    from resprune.alpha import PromptContext
    from resprune.nouns import NounExtractor, TaggedWord

_READER_CACHE = 4096


@dataclass(frozen=True)
class Question:
    """What is read of a question before any model is looked at.

    Attributes:
        text: The question; empty when a prompt asks nothing.
        tags: Its tagged words.
        spans: (start, end) character offsets of its L nouns (content words where it has none).
        words: Token ids of each noun, in context.
    """

    text: str = ""
    tags: Sequence[TaggedWord] = ()
    spans: Sequence[tuple[int, int]] = ()
    words: Sequence[Sequence[int]] = ()


def read_question(text: str, extractor: NounExtractor, word_ids: WordIds) -> Question:
    """Find the nouns of a question and their token ids.

    Args:
        text: The question alone: no chat template, no answer-format instruction, no answer.
        extractor: Gives the nouns.
        word_ids: Gives their token ids.

    Returns:
        The question, read.
    """
    spans = extractor.spans(text)
    return Question(text, extractor.content_tags(text), spans, word_ids.of(text, spans))


@dataclass(frozen=True)
class Prompt:
    """A question, read once for all its images.

    Attributes:
        question: The question; empty when a prompt asks nothing.
        tags: Its tagged words.
        nouns: Its L nouns in order (content words where it has no noun), possibly none.
        spans: Their (start, end) character offsets.
        embeddings: Their embeddings in the LLM's input-embedding space, shape (L, d).
        ranks: Their tokenizer ranks in [0, 1].
        norms: Their embedding norms relative to the table's mean.
        text_embeds: What the backbone's text model makes of the question, shape (L', c); None
            without one.
    """

    question: str
    tags: Sequence[TaggedWord]
    nouns: list[str]
    spans: list[tuple[int, int]]
    embeddings: Tensor
    ranks: list[float]
    norms: list[float]
    text_embeds: Tensor | None = None

    @classmethod
    def of(cls, asked: Question, vectors: WordVectors, text_embeds: Tensor | None = None) -> Self:
        """Make a prompt of a question and the LLM's input embeddings.

        Args:
            asked: The question, read.
            vectors: Gives the embeddings of its nouns.
            text_embeds: What a text model makes of it, if there is one.

        Returns:
            The prompt; without a noun, relevance is 1 everywhere.
        """
        ranks, norms = vectors.rarity(asked.words)
        return cls(
            question=asked.text,
            tags=asked.tags,
            nouns=[asked.text[start:end] for start, end in asked.spans],
            spans=list(asked.spans),
            embeddings=vectors.embed(asked.words),
            ranks=ranks,
            norms=norms,
            text_embeds=text_embeds,
        )

    def context(self, cosines: Tensor | None = None) -> PromptContext:
        """Return what the alpha predictor's features are made from.

        Args:
            cosines: Cosine of each noun with each visual token, shape (L, T), when an image is at
                hand.

        Returns:
            The context.
        """
        from resprune.alpha import PromptContext

        return PromptContext(
            question=self.question,
            tags=self.tags,
            nouns=self.nouns,
            noun_ranks=self.ranks,
            noun_norms=self.norms,
            cosines=None if cosines is None else cosines.double().cpu().numpy(),
        )


class PromptReader:
    """Reads questions: nouns and their embeddings, remembered by question.

    Args:
        backbone: Gives the embeddings.
        extractor: Gives the nouns.
        cache_size: Questions remembered.
    """

    def __init__(
        self, backbone: Backbone, extractor: NounExtractor, *, cache_size: int = _READER_CACHE
    ) -> None:
        self.backbone = backbone
        self.extractor = extractor
        self._cache_size = cache_size
        self._cache: OrderedDict[str, Prompt] = OrderedDict()

    def read(self, question: str) -> Prompt:
        """Read one question.

        Args:
            question: The question alone: no chat template, no answer-format instruction, no
                answer.

        Returns:
            The prompt; without a word in it, relevance is 1 everywhere.
        """
        if question in self._cache:
            self._cache.move_to_end(question)
            return self._cache[question]
        text_model = self.backbone.text_model
        prompt = Prompt.of(
            read_question(question, self.extractor, self.backbone.word_ids),
            self.backbone.word_vectors,
            None if text_model is None else text_model.embed(question),
        )
        self._cache[question] = prompt
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return prompt
