"""Below which prompt length, and which size of the LLM, pruning does not pay on this machine.

Pruning adds a reading of the prompt, which costs the same whatever the image, and a selection,
which grows with visual tokens times tokens kept and with the width of the LLM, and is taken not to
shrink below what was measured, since on small inputs it is calls that cost. It saves arithmetic in
the prefill. What a saved FLOP is worth is the rate at which this machine got faster from the
unpruned prefill to the pruned one, so that what a call costs at any length cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

import numpy as np
import numpy.typing as npt

from resprune.budget import Budget, Ratio
from tuner.efficiency.flops import Decoder
from tuner.efficiency.stopwatch import Timed
from tuner.results.efficiency import BreakEven

LONGEST = 1 << 17
"""Visual tokens that are looked at, at most."""


@dataclass(frozen=True)
class Costs:
    """What was measured of a policy and of the unpruned model.

    Attributes:
        decoder: Sizes of the LLM.
        whole_rows: Rows of each layer, unpruned.
        rows: Rows of each layer, pruned.
        visual_tokens: Visual tokens T of the image measured.
        read_ms: Cost of reading the prompt.
        select_ms: Cost of selecting and of making the inputs, at T.
        ms_per_flop: Milliseconds that one FLOP less saves.
    """

    decoder: Decoder
    whole_rows: tuple[float, ...]
    rows: tuple[float, ...]
    visual_tokens: float
    read_ms: float
    select_ms: float
    ms_per_flop: float

    @classmethod
    def of(cls, decoder: Decoder, whole: Sequence[Timed], pruned: Sequence[Timed]) -> Self:
        """Make them from the calls of the same rounds."""
        whole_rows, rows = mean_rows(whole), mean_rows(pruned)
        fewer = decoder.prefill_flops(whole_rows) - decoder.prefill_flops(rows)
        saved = median(w.prefill_ms - p.prefill_ms for w, p in zip(whole, pruned, strict=True))
        return cls(
            decoder=decoder,
            whole_rows=whole_rows,
            rows=rows,
            visual_tokens=sum(call.visual_tokens for call in pruned) / len(pruned),
            read_ms=median(call.read_ms for call in pruned),
            select_ms=median(call.select_ms + call.prepare_ms for call in pruned),
            ms_per_flop=saved / fewer if fewer > 0 else 0.0,
        )


def mean_rows(calls: Sequence[Timed]) -> tuple[float, ...]:
    """Return the mean count of rows of each layer over calls."""
    each = zip(*(call.rows_per_layer for call in calls), strict=True)
    return tuple(sum(rows) / len(calls) for rows in each)


def break_even(costs: Costs, budget: Budget) -> BreakEven:
    """Find below what pruning at a budget does not pay.

    Args:
        costs: What was measured.
        budget: The policy's; a ratio keeps its share at other lengths, any other its count.
    """
    if costs.ms_per_flop <= 0:
        return BreakEven(visual_tokens=None, parameters=None)
    ratio = isinstance(budget, Ratio)
    return BreakEven(visual_tokens=_visual_tokens(costs, ratio), parameters=_parameters(costs))


def _visual_tokens(costs: Costs, ratio: bool) -> int | None:
    """Return the least T from which on the saving is over the cost."""
    tokens = np.arange(1, LONGEST + 1, dtype=np.float64)
    total = costs.visual_tokens
    text = costs.whole_rows[0] - total
    cut = [rows - text for rows in costs.rows if rows < costs.whole_rows[0]]
    if not cut:
        return None
    decoder = costs.decoder
    per_row = 2 * decoder.layer_parameters
    per_pair = 4 * decoder.heads * decoder.head_dim

    def kept(visual: float) -> npt.NDArray[np.float64]:
        return visual / total * tokens if ratio else np.minimum(tokens, visual)

    saved = np.zeros_like(tokens)
    for visual in cut:
        whole, pruned = tokens + text, kept(visual) + text
        saved += per_row * (whole - pruned) + per_pair * (whole**2 - pruned**2)
    growth = np.maximum(1.0, tokens / total * kept(cut[0]) / cut[0])
    paid = costs.ms_per_flop * saved > costs.read_ms + costs.select_ms * growth
    if not paid[-1]:
        return None
    losing = np.flatnonzero(~paid)
    return int(losing[-1]) + 2 if len(losing) else 1


def _parameters(costs: Costs) -> int | None:
    """Return the least size at which it pays, all widths s times those measured.

    The saving is a s^2 (matrices) + b s (attention), the cost read + select max(1, s).
    """
    decoder = costs.decoder
    a, b = (
        costs.ms_per_flop * (flops(costs.whole_rows) - flops(costs.rows))
        for flops in (decoder.matrix_flops, decoder.attention_flops)
    )
    if a <= 0:
        return None
    s = _root(a, b, costs.read_ms + costs.select_ms)
    if s > 1:
        s = _root(a, b - costs.select_ms, costs.read_ms)
    return math.ceil(decoder.parameters * s * s)


def _root(a: float, b: float, c: float) -> float:
    """Return the positive s at which a s^2 + b s = c."""
    return (-b + math.sqrt(b * b + 4 * a * c)) / (2 * a)
