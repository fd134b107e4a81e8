"""Attention signals of a vision tower, recorded by hooks while it runs.

The tower keeps its attention kernel (sdpa, flash): only the queries of one token and the keys are
looked at, and the one softmax row is computed beside.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn


class ClsAttention:
    """Context manager that records what the CLS token attends to in one layer.

    Args:
        attention: An attention module with ``q_proj`` and ``k_proj`` (CLIP and its kin).
        heads: Number of heads.
        scale: Factor of the dot products.
    """

    def __init__(self, attention: Any, heads: int, scale: float) -> None:
        self._attention = attention
        self._heads = heads
        self._scale = scale
        self._queries: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        def on_query(_module: nn.Module, _args: Any, output: Tensor) -> None:
            self._queries.append(output[:, :1].detach())

        def on_key(_module: nn.Module, _args: Any, output: Tensor) -> None:
            self._keys.append(output.detach())

        self._handles = [
            self._attention.q_proj.register_forward_hook(on_query),
            self._attention.k_proj.register_forward_hook(on_key),
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def scores(self) -> Tensor:
        """Return the CLS token's attention to the other tokens.

        Returns:
            Shape (N, T), float32, mean over heads; rows sum to one minus what the CLS token gives
            to itself.
        """
        return cls_scores(torch.cat(self._queries), torch.cat(self._keys), self._heads, self._scale)


def cls_scores(query: Tensor, key: Tensor, heads: int, scale: float) -> Tensor:
    """Compute what the CLS token attends to, mean over heads.

    Args:
        query: Queries of the CLS token, shape (N, 1, width).
        key: Keys of every token, the CLS token first, shape (N, 1 + T, width).
        heads: Number of heads.
        scale: Factor of the dot products.

    Returns:
        Shape (N, T), float32.
    """
    images, length, width = key.shape
    key = key.float().view(images, length, heads, width // heads)
    query = query.float().view(images, heads, width // heads)
    logits = torch.einsum("nhc,nlhc->nhl", query, key) * scale
    return logits.softmax(dim=-1).mean(dim=1)[:, 1:]
