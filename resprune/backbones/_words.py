"""Words of a question in the LLM's input-embedding space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from resprune.errors import UnsupportedModelError

_CHUNK_ROWS = 8192  # the table's norms are taken in float32 chunk by chunk


class WordIds:
    """Gives the token ids of words as the LLM sees them in their question.

    The question is tokenised whole: in byte-level BPE the bare word is not the in-context word.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UnsupportedModelError(
                f"{type(tokenizer).__name__} gives no character offsets; load the fast tokenizer "
                "(AutoTokenizer.from_pretrained(..., use_fast=True))"
            )
        self._tokenizer = tokenizer

    def of(self, question: str, spans: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Return the token ids that overlap each span; the span's own ids where none does."""
        encoded = self._tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
        pieces = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        found = []
        for start, end in spans:
            inside = [token for token, (a, b) in pieces if a < end and b > start]
            if not inside:
                alone = self._tokenizer(question[start:end], add_special_tokens=False)
                inside = list(alone["input_ids"])
            found.append(inside)
        return found


class WordVectors:
    """Gives the embeddings of words, each a list of token ids.

    Args:
        embedding: The LLM's input embedding, a module with a ``weight``.
        size: Rows of the table that are tokens; all of them where left out.
    """

    def __init__(self, embedding: Any, size: int | None = None) -> None:
        self._embedding = embedding
        self._size = int(embedding.weight.shape[0]) if size is None else size
        self._mean_norm: float | None = None

    @torch.no_grad()
    def embed(self, words: Sequence[Sequence[int]]) -> Tensor:
        """Average the sub-words of each word: (L, d), zero for a word without any token."""
        flat = [token for ids in words for token in ids]
        vectors = self._vectors(torch.tensor(flat, dtype=torch.long))
        rows = [
            part.float().mean(dim=0).to(vectors.dtype)
            if len(part)
            else vectors.new_zeros(vectors.shape[1])
            for part in torch.split(vectors, [len(ids) for ids in words])
        ]
        return torch.stack(rows) if rows else vectors.new_zeros((0, vectors.shape[1]))

    def rarity(self, words: Sequence[Sequence[int]]) -> tuple[list[float], list[float]]:
        """Return tokenizer ranks in [0, 1] and norms relative to the table's mean, L each."""
        size = max(self._size, 1)
        ranks = [sum(ids) / len(ids) / size if ids else 0.0 for ids in words]
        norms = self.embed(words).float().norm(dim=1) / self._table_norm()
        return ranks, [float(norm) for norm in norms]

    @torch.no_grad()
    def _table_norm(self) -> float:
        if self._mean_norm is None:
            chunks = torch.split(torch.arange(self._size), _CHUNK_ROWS)
            norms = [self._vectors(ids).float().norm(dim=1).sum() for ids in chunks]
            mean = float(torch.stack(norms).sum()) / max(self._size, 1)
            self._mean_norm = mean if mean > 0 else 1.0
        return self._mean_norm

    def _vectors(self, ids: Tensor) -> Tensor:
        # through the module: where weights are offloaded, only its hooks can read the table
        device = self._embedding.weight.device
        found: Tensor = self._embedding(ids if device.type == "meta" else ids.to(device))
        return found
