"""The steps inside a block as one Triton kernel: one program a run, candidates in registers.

The residual Gram matrix of m candidates (64 KiB at m = 128 in float32) stays in the registers of
one GPU block from the first pick to the last: each pick takes its row, scales it, and subtracts the
outer product. Same picks as ``masked.pick_in_block``. Needs the extra ``triton``; without it that
function serves.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from resprune.subspace.masked import Block, Picks
from resprune.subspace.rules import SAFE_PIVOT


@triton.jit  # type: ignore[untyped-decorator]
def _steps(  # type: ignore[no-untyped-def]
    residual_ptr,
    energy_ptr,
    scale_ptr,
    extra_ptr,
    index_ptr,
    bar_ptr,
    rival_ptr,
    seed_ptr,
    budget_ptr,
    places_ptr,
    columns_ptr,
    safe_ptr,
    count,
    most,
    tolerance,
    safe_pivot,
    width: tl.constexpr,
):
    run = tl.program_id(0)
    place = tl.arange(0, width)
    real = place < count
    line = run * count + place
    never = float("-inf")
    energy = tl.load(energy_ptr + line, mask=real, other=never)
    scale = tl.load(scale_ptr + line, mask=real, other=0.0)
    extra = tl.load(extra_ptr + line, mask=real, other=never)
    index = tl.load(index_ptr + line, mask=real, other=0)
    cell = (run * count + place[:, None]) * count + place[None, :]
    inside = real[:, None] & real[None, :]
    residual = tl.load(residual_ptr + cell, mask=inside, other=0.0)
    bar = tl.load(bar_ptr + run)
    rival = tl.load(rival_ptr + run)
    seed = tl.load(seed_ptr + run)
    last = tl.minimum(tl.load(budget_ptr + run), most)
    safe = last * 0 + most

    step = last * 0
    going = last > 0
    while going:
        root = tl.sqrt(tl.maximum(energy, 0.0))
        score = tl.where(energy > tolerance, root * scale, extra)
        score = tl.where((place == seed) & (step == 0), float("inf"), score)
        best = tl.max(score, axis=0)
        pick = tl.min(tl.where(score == best, place, width), axis=0)
        here = place == pick
        token = tl.sum(tl.where(here, index, 0), axis=0)
        going = ((best > bar) | ((best == bar) & (token < rival))) & (best > never)
        if going:
            own = tl.sum(tl.where(here, energy, 0.0), axis=0)
            spans = own > tolerance
            safe = tl.where(spans & (own < safe_pivot), tl.minimum(safe, step), safe)
            inverse = tl.where(spans, 1.0 / tl.sqrt(tl.where(spans, own, 1.0)), 0.0)
            column = tl.sum(tl.where(here[:, None], residual, 0.0), axis=0) * inverse
            residual -= column[:, None] * column[None, :]
            energy = tl.where(here, never, energy - column * column)
            extra = tl.where(here, never, extra)
            tl.store(places_ptr + run * most + step, pick.to(tl.int64))
            tl.store(columns_ptr + (run * most + step) * count + place, column, mask=real)
            step += 1
            going = step < last
    tl.store(safe_ptr + run, safe.to(tl.int64))


def pick_in_kernel(block: Block, most: int, tolerance: float) -> Picks:
    """``masked.pick_in_block`` as one launch.

    Args:
        block: The candidates, at most 128 (more would leave the registers).
        most: Picks at most.
        tolerance: Relative residual energy at which a token is exhausted.

    Returns:
        The picks.
    """
    runs, count = block.energy.shape
    device = block.energy.device
    places = torch.full((runs, most), -1, device=device)
    columns = block.energy.new_zeros(runs, most, count)
    safe = torch.empty(runs, dtype=torch.int64, device=device)
    _steps[(runs,)](
        *(value.contiguous() for value in block),
        places,
        columns,
        safe,
        count,
        most,
        tolerance,
        SAFE_PIVOT,
        width=max(16, triton.next_power_of_2(count)),
        num_warps=8,
    )
    return Picks(places, columns, safe)
