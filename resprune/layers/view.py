"""What a method inside the LLM reads of a decoder layer, from the layer's own projections."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor


class DecoderView:
    """A ``LayerView`` of a running model.

    Weights of attention are computed for the queries that are asked for alone, so the model may
    run sdpa or flash attention.

    Args:
        index: The layer, from 0.
        text: The decoder.
        hidden: Hidden states before the layer, shape (B, n, D).
        rotary: cos and sin of each slot, (B or 1, n, d) each.
        mask: What the layer gets: None or 2-D (causal), or 4-D and bool or float.
        valid: False on padding, shape (B, n).
        visual: True on visual tokens, shape (B, n).
        glue: True on newline tokens, shape (B, n).
        counts: How many visual tokens the layer leaves of each row.
    """

    def __init__(
        self,
        index: int,
        text: Any,
        hidden: Tensor,
        rotary: Sequence[Tensor],
        mask: Tensor | None,
        valid: Tensor,
        visual: Tensor,
        glue: Tensor,
        counts: list[int],
    ) -> None:
        self.index, self.depth, self.counts = index, len(text.layers), counts
        self._text, self._layer = text, text.layers[index]
        rotary = [part.expand(len(hidden), -1, -1) for part in rotary]
        if mask is not None:  # 2-D says no more than valid
            mask = mask.expand(len(hidden), -1, -1, -1) if mask.ndim == 4 else None
        self._order: Tensor | None = None
        if bool((valid[:, :-1] & ~valid[:, 1:]).any()):  # rows are to be padded in front
            order = self._order = valid.byte().argsort(dim=1, stable=True)
            hidden, *rotary = (_rows(part, order) for part in (hidden, *rotary))
            valid, visual, glue = (part.gather(1, order) for part in (valid, visual, glue))
            if mask is not None:
                mask = mask.gather(2, order[:, None, :, None].expand(mask.shape))
                mask = mask.gather(3, order[:, None, None].expand(mask.shape))
        self.hidden, self.valid = hidden, valid
        self._rotary, self._mask = rotary, mask
        self.visual = [row.nonzero()[:, 0] for row in visual]
        ends = [int(slots[-1]) if len(slots) else -1 for slots in self.visual]
        self.text = [
            (row[end + 1 :]).nonzero()[:, 0] + end + 1
            for row, end in zip(valid & ~glue, ends, strict=True)
        ]
        self._keys: Tensor | None = None

    def keys(self) -> Tensor:
        """As of ``LayerView``; computed once."""
        if self._keys is None:
            self._keys = self._projected("k", self.hidden, self._rotary)
        return self._keys

    def attention(self, row: int, slots: Tensor) -> Tensor:
        """As of ``LayerView``."""
        rotary = [part[row : row + 1, slots] for part in self._rotary]
        queries = self._projected("q", self.hidden[row : row + 1, slots], rotary)[0]
        keys = self.keys()[row]
        keys = keys.repeat_interleave(len(queries) // len(keys), dim=0)
        logits: Tensor = (queries @ keys.transpose(1, 2) * self._layer.self_attn.scaling).float()
        if self._mask is not None:
            seen = self._mask[row, 0, slots]
            seen = seen == 0 if seen.is_floating_point() else seen
        else:
            place = self.valid.new_ones(keys.shape[1]).cumsum(0) - 1
            seen = (place <= slots[:, None]) & self.valid[row]
        return logits.masked_fill(~seen, -float("inf")).softmax(dim=-1)

    def normed(self) -> Tensor:
        """As of ``LayerView``."""
        states: Tensor = self._text.norm(self.hidden)
        return states

    def original(self, row: int, slots: Tensor) -> Tensor:
        """Return where slots of a row lie in the hidden states that the view was made of."""
        return slots if self._order is None else self._order[row, slots]

    def _projected(self, which: str, hidden: Tensor, rotary: Sequence[Tensor]) -> Tensor:
        """Project and rotate states (B, m, D) as the layer does: (B, heads, m, d)."""
        attention = self._layer.self_attn
        states = getattr(attention, f"{which}_proj")(self._layer.input_layernorm(hidden))
        states = states.unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{which}_norm", None)  # Qwen3 and Gemma 3
        states = (states if norm is None else norm(states)).transpose(1, 2)
        rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        rotated: Tensor = rotate(states, states, *rotary)[0]
        return rotated


def _rows(values: Tensor, order: Tensor) -> Tensor:
    """Gather along the second dimension of (B, n, d) values."""
    return values.gather(1, order[..., None].expand(-1, -1, values.shape[-1]))
