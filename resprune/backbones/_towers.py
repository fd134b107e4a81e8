"""Vision towers whose attention has ``q_proj`` and ``k_proj`` (CLIP, SigLIP and their kin)."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from resprune.errors import ResPruneError, UnsupportedModelError

_CHUNK_SCORES = 1 << 24  # softmax rows are computed in pieces of at most this many scores


def chosen_layer(depth: int, chosen: int | list[int], family: str) -> int:
    """Find the layer whose output is the hidden state that a model takes its features from.

    Args:
        depth: Layers of the tower.
        chosen: ``config.vision_feature_layer``: one state, or several.
        family: Named in the error.

    Returns:
        Index of the (deepest) layer.

    Raises:
        UnsupportedModelError: The state is the embedding, or out of range.
    """
    states = [chosen] if isinstance(chosen, int) else list(chosen)
    # hidden state 0 is the embedding; hidden state n is the output of layer n - 1
    layers = [depth + state if state < 0 else state - 1 for state in states]
    if not 0 <= max(layers) < depth:
        raise UnsupportedModelError(
            f"{family}: vision_feature_layer {chosen!r} names no attention layer of this tower of "
            f"{depth} layers; use the seed strategy 'l2_norm'"
        )
    return max(layers)


class PatchAttention:
    """Context manager that records how much attention each patch of each view receives.

    For towers without a CLS token. The layer keeps its kernel; its queries and keys are read, and
    the softmax is computed beside, chunk by chunk.

    Args:
        query: The module whose output (N, L, width) are the queries.
        key: The same for the keys.
        heads: Number of heads.
        scale: Factor of the dot products.
    """

    def __init__(self, query: nn.Module, key: nn.Module, heads: int, scale: float) -> None:
        self._modules = (query, key)
        self._heads = heads
        self._scale = scale
        self._seen: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        def recorder(into: list[Tensor]) -> Any:
            def on_output(_module: nn.Module, _args: Any, output: Tensor) -> None:
                into.append(output.detach())

            return on_output

        for module, into in zip(self._modules, self._seen, strict=True):
            self._handles.append(module.register_forward_hook(recorder(into)))
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
            Shape (N, L), float32; each row sums to one.
        """
        query, key = (torch.cat(seen) for seen in self._seen)
        return received_scores(query, key, self._heads, self._scale)


def received_scores(query: Tensor, key: Tensor, heads: int, scale: float) -> Tensor:
    """Compute the attention that each token of each view receives, mean over heads and queries.

    Args:
        query: Queries, shape (N, L, width).
        key: Keys, of the same shape.
        heads: Number of heads.
        scale: Factor of the dot products.

    Returns:
        Shape (N, L), float32; each row sums to one.
    """
    received = []
    for queries, keys in zip(_by_head(query, heads), _by_head(key, heads), strict=True):
        length = keys.shape[1]
        step = max(1, _CHUNK_SCORES // (heads * length))
        total = keys.new_zeros(length)
        for chunk in queries.split(step, dim=1):
            weights = (chunk @ keys.transpose(1, 2) * scale).softmax(dim=-1)
            total += weights.sum(dim=(0, 1))
        received.append(total / (heads * length))
    return torch.stack(received)


def _by_head(states: Tensor, heads: int) -> Tensor:
    """(N, L, width) -> (N, heads, L, head width), float32."""
    views, length, width = states.shape
    return states.float().view(views, length, heads, width // heads).transpose(1, 2)


def check_image_sizes(given: Any, images: int) -> None:
    """Check that a caller's original sizes fit the images.

    Args:
        given: A (height, width) an image, or None.
        images: Images of the batch.

    Raises:
        ResPruneError: Another number of sizes.
    """
    if given is not None and len(given) != images:
        raise ResPruneError(
            f"image_sizes has {len(given)} entries for {images} images; give one (height, width) "
            "each"
        )
