"""A question, read once: its nouns and their embeddings, for relevance and adaptive policies."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from resprune.backbones import Backbone

if TYPE_CHECKING:
    from resprune.alpha import PromptContext
    from resprune.nouns import NounExtractor, TaggedWord

_READER_CACHE = 4096


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
        spans = self.extractor.spans(question)
        text_model = self.backbone.text_model
        ranks, norms = self.backbone.noun_rarity(question, spans)
        prompt = Prompt(
            question=question,
            tags=self.extractor.content_tags(question),
            nouns=[question[start:end] for start, end in spans],
            spans=spans,
            embeddings=self.backbone.noun_embeddings(question, spans),
            ranks=ranks,
            norms=norms,
            text_embeds=None if text_model is None else text_model.embed(question),
        )
        self._cache[question] = prompt
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return prompt
