"""How much attention each patch of a vision tower receives, recorded by hooks while it runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

_CHUNK_SCORES = 1 << 24  # softmax rows are computed in pieces of at most this many scores


class ReceivedAttention:
    """Context manager that records one attention layer of a packed tower with rotary positions.

    For towers without a CLS token (Qwen's). The layer keeps its kernel; its queries and keys are
    read from ``qkv`` and the softmax is computed beside, chunk by chunk.

    Args:
        attention: An attention module with ``qkv``, ``num_heads`` and ``scaling``, called with
            ``cu_seqlens`` and ``position_embeddings`` (cos, sin), each (N, head width).
    """

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._projected: Tensor | None = None
        self._called: dict[str, Any] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        def on_call(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
            self._called = {name: kwargs[name] for name in ("cu_seqlens", "position_embeddings")}

        def on_projection(_module: nn.Module, _args: Any, output: Tensor) -> None:
            self._projected = output.detach()

        self._handles = [
            self._attention.register_forward_pre_hook(on_call, with_kwargs=True),
            self._attention.qkv.register_forward_hook(on_projection),
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

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Return the attention that each patch receives, mean over heads and queries.

        Returns:
            Shape (N,), float32, in the order of the layer's input; it sums to one over each
            sequence.
        """
        assert self._projected is not None
        length, heads = len(self._projected), int(self._attention.num_heads)
        query, key, _ = self._projected.float().view(length, 3, heads, -1).unbind(1)
        cos, sin = (part.float()[:, None] for part in self._called["position_embeddings"])
        query, key = rotated(query, cos, sin), rotated(key, cos, sin)
        scale = float(self._attention.scaling)
        return packed_scores(query, key, scale, self._called["cu_seqlens"].tolist())


def packed_scores(query: Tensor, key: Tensor, scale: float, bounds: Sequence[int]) -> Tensor:
    """Compute the attention that each patch of packed sequences receives.

    Args:
        query: Queries with their positions, shape (N, heads, head width), float32.
        key: Keys, of the same shape.
        scale: Factor of the dot products.
        bounds: Where sequences begin and end, from 0 to N.

    Returns:
        Shape (N,), mean over heads and queries; it sums to one over each sequence.
    """
    length, heads, _ = key.shape
    received = torch.zeros(length, device=key.device)
    for start, stop in itertools.pairwise(bounds):
        inside = key[start:stop].permute(1, 2, 0)
        step = max(1, _CHUNK_SCORES // max(heads * (stop - start), 1))
        for chunk in torch.split(query[start:stop], step):
            weights = (chunk.transpose(0, 1) @ inside * scale).softmax(dim=-1)
            received[start:stop] += weights.sum(dim=(0, 1)) / (heads * (stop - start))
    return received


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of each head's width by rotary positions."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin
