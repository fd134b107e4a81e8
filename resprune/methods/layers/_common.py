"""What several methods inside the LLM share."""

from __future__ import annotations

import torch
from torch import Tensor

from resprune.methods._common import by_score, part_of
from resprune.methods.layers.base import LayerView


def top(slots: Tensor, scores: Tensor, count: int) -> Tensor:
    """Return the slots of the highest scores, sorted; ties go to the lower slot.

    Args:
        slots: Rising slots, shape (T,).
        scores: One value a slot, shape (T,).
        count: How many, at most T.
    """
    return slots[by_score(scores)[:count]].sort().values


def last_attention(view: LayerView, row: int) -> Tensor:
    """Return a layer's attention from a row's last token to its visual tokens, mean over heads.

    Args:
        view: The state.
        row: The row.

    Returns:
        One value a visual token, shape (T_b,), float32.
    """
    last = torch.tensor([view.hidden.shape[1] - 1], device=view.hidden.device)
    return view.attention(row, last).mean(dim=0)[0, view.visual[row]]


def geometric(tokens: int, k: int, drops: int) -> tuple[int, ...]:
    """Return the counts after each of several drops of about one share, floored; the last is k.

    Args:
        tokens: Visual tokens T.
        k: Those left in the end, 1 to T.
        drops: How many drops.
    """
    return *(part_of((k / tokens) ** (i / drops), tokens) for i in range(1, drops)), k
