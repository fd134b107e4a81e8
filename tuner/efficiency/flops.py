"""Arithmetic and cache of a decoder's prefill, worked out from its config.

A multiply-add counts as two FLOPs, and only matrix products count, as in
``torch.utils.flop_counter``: projections, the gated MLP, the two products of attention, and the
output head on the last position. Attention counts all r x r products of r rows, also where the mask
drops half of them, as torch's counter does for its attention kernels. Not counted: the vision
tower, which runs alike with and without pruning; norms, softmax, activations and rotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decoder:
    """Sizes of a decoder of the LLaMA kind: grouped-query attention and a gated MLP.

    Attributes:
        layers: Decoder layers.
        hidden: Width d.
        intermediate: Width of the MLP.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        vocabulary: Rows of the output head.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Decoder:
        """Read the sizes of a model's config, or of its text part."""
        text = config.get_text_config()
        heads = int(text.num_attention_heads)
        return cls(
            layers=int(text.num_hidden_layers),
            hidden=int(text.hidden_size),
            intermediate=int(text.intermediate_size),
            heads=heads,
            kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
            head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
            vocabulary=int(text.vocab_size),
        )

    @property
    def layer_parameters(self) -> int:
        """Parameters in the matrices of one layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.hidden * (2 * queries + 2 * keys + 3 * self.intermediate)

    @property
    def parameters(self) -> int:
        """Parameters in the matrices of all layers, without embeddings and head."""
        return self.layers * self.layer_parameters

    def matrix_flops(self, rows_per_layer: Sequence[float]) -> float:
        """Return the FLOPs of projections and MLPs over a prefill.

        Args:
            rows_per_layer: Rows that each layer runs on; a mean may be a fraction.
        """
        return 2 * self.layer_parameters * sum(rows_per_layer)

    def attention_flops(self, rows_per_layer: Sequence[float]) -> float:
        """Return the FLOPs of q k^T and of the weights with v over a prefill."""
        return 4 * self.heads * self.head_dim * sum(rows * rows for rows in rows_per_layer)

    def prefill_flops(self, rows_per_layer: Sequence[float]) -> float:
        """Return the FLOPs of a prefill, the head on the last position included.

        Args:
            rows_per_layer: Rows that each layer runs on.
        """
        head = 2 * self.hidden * self.vocabulary
        return self.matrix_flops(rows_per_layer) + self.attention_flops(rows_per_layer) + head

    def kv_bytes(self, rows_per_layer: Sequence[float], element_size: int) -> float:
        """Return the bytes of keys and values that a prefill leaves.

        Args:
            rows_per_layer: Rows that each layer caches.
            element_size: Bytes of a number.
        """
        return 2 * self.kv_heads * self.head_dim * element_size * sum(rows_per_layer)
