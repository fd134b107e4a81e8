"""Words of a question in the LLM's input-embedding space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resprune.errors import UnsupportedModelError

_CHUNK_ROWS = 8192  # the table's norms are taken in float32 chunk by chunk


class WordEmbedder:
    """Embeds words as the LLM sees them in their question.

    The question is tokenised whole: in byte-level BPE the bare word is not the in-context word.
    """

    def __init__(self, embedding: nn.Module, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UnsupportedModelError(
                f"{type(tokenizer).__name__} gives no character offsets; load the fast tokenizer "
                "(AutoTokenizer.from_pretrained(..., use_fast=True))"
            )
        self._embedding: Any = embedding
        self._tokenizer = tokenizer
        self._mean_norm: float | None = None

    def ids(self, question: str, spans: Sequence[tuple[int, int]]) -> list[list[int]]:
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

    @torch.no_grad()
    def embed(self, question: str, spans: Sequence[tuple[int, int]]) -> Tensor:
        """Average the sub-words of each span: (L, d), zero for a span without any token."""
        found = self.ids(question, spans)
        flat = [token for ids in found for token in ids]
        vectors = self._vectors(torch.tensor(flat, dtype=torch.long))
        rows = [
            part.float().mean(dim=0).to(vectors.dtype)
            if len(part)
            else vectors.new_zeros(vectors.shape[1])
            for part in torch.split(vectors, [len(ids) for ids in found])
        ]
        return torch.stack(rows) if rows else vectors.new_zeros((0, vectors.shape[1]))

    def rarity(
        self, question: str, spans: Sequence[tuple[int, int]]
    ) -> tuple[list[float], list[float]]:
        """Return tokenizer ranks in [0, 1] and norms relative to the table's mean, L each."""
        size = max(int(self._embedding.weight.shape[0]), 1)
        ranks = [sum(ids) / len(ids) / size if ids else 0.0 for ids in self.ids(question, spans)]
        norms = self.embed(question, spans).float().norm(dim=1) / self._table_norm()
        return ranks, [float(norm) for norm in norms]

    @torch.no_grad()
    def _table_norm(self) -> float:
        if self._mean_norm is None:
            size = int(self._embedding.weight.shape[0])
            chunks = torch.split(torch.arange(size), _CHUNK_ROWS)
            norms = [self._vectors(ids).float().norm(dim=1).sum() for ids in chunks]
            mean = float(torch.stack(norms).sum()) / max(size, 1)
            self._mean_norm = mean if mean > 0 else 1.0
        return self._mean_norm

    def _vectors(self, ids: Tensor) -> Tensor:
        # through the module: where weights are offloaded, only its hooks can read the table
        device = self._embedding.weight.device
        found: Tensor = self._embedding(ids if device.type == "meta" else ids.to(device))
        return found
