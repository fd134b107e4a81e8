"""Lazy block greedy for a whole batch, without a branch and without waiting for the host.

The same idea as ``lazy``: among the best candidates, picks are exact as long as the best current
score is above the best stale score outside. Here every run (image and setting) goes through the
same outer passes; one that ends early is masked. Each pass makes at least one pick, or begins the
restart that makes it, so a bound on the passes is known beforehand, and the passes can be captured
in a CUDA graph. The steps inside a block are ``pick_in_block``, or one kernel (``kernel``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from resprune.subspace.recurrence import Run, root_worth
from resprune.subspace.rules import SAFE_PIVOT

_CANDIDATES = 128  # their residual Gram matrix fits the registers of one GPU block
_PICKS = 64  # at most, in a block


class Block(NamedTuple):
    """Candidates of R runs, m each, by rising index.

    Attributes:
        residual: Residual inner products, shape (R, m, m); overwritten.
        energy: Residual energies; -inf where picked or padding, shape (R, m).
        scale: Square roots of what energies are weighted with, shape (R, m).
        extra: Scores of tokens without energy, where only they are left, else -inf; (R, m).
        tokens: The tokens, shape (R, m).
        bar: Best score outside, shape (R,).
        rival: Index of the token that has it, shape (R,).
        seed: The forced pick's place among the candidates, -1 without one, shape (R,).
        budget: Picks that may be made, shape (R,).
    """

    residual: Tensor
    energy: Tensor
    scale: Tensor
    extra: Tensor
    tokens: Tensor
    bar: Tensor
    rival: Tensor
    seed: Tensor
    budget: Tensor


class Picks(NamedTuple):
    """Picks made in a block.

    Attributes:
        places: Places among the candidates, -1 after the last, shape (R, s).
        columns: Factor of the candidates, one row a pick, zero where it spans nothing; (R, s, m).
        safe: How many were made before one that float32 should not divide by, shape (R,).
    """

    places: Tensor
    columns: Tensor
    safe: Tensor


Picker = Callable[[Block, int, float], Picks]


def pick_in_block(block: Block, most: int, tolerance: float) -> Picks:
    """Pick among candidates for as long as no token outside can be better.

    Args:
        block: The candidates.
        most: Steps to go through; runs that end earlier are masked.
        tolerance: Relative residual energy at which a token is exhausted.

    Returns:
        The picks.
    """
    residual, energy, extra = block.residual, block.energy.clone(), block.extra.clone()
    runs, count = energy.shape
    place, run = torch.arange(count, device=energy.device), torch.arange(runs, device=energy.device)
    places = torch.full((runs, most), -1, device=energy.device)
    columns = energy.new_zeros(runs, most, count)
    safe = torch.full((runs,), most, device=energy.device)
    going = torch.ones(runs, dtype=torch.bool, device=energy.device)
    for step in range(most):
        score = torch.where(energy > tolerance, energy.sqrt() * block.scale, extra)
        if step == 0:
            score = score.masked_fill(place == block.seed[:, None], torch.inf)
        best, pick = score.max(dim=1)
        first = (best == block.bar) & (block.tokens[run, pick] < block.rival)
        going = going & (step < block.budget) & ((best > block.bar) | first) & (best > -torch.inf)
        own = energy[run, pick]
        spans = going & (own > tolerance)
        safe = torch.where(spans & (own < SAFE_PIVOT), safe.clamp_max(step), safe)
        column = residual[run, pick] * torch.where(spans, own.rsqrt(), 0)[:, None]
        residual.baddbmm_(column.unsqueeze(2), column.unsqueeze(1), alpha=-1)
        energy.addcmul_(column, column, value=-1)
        picked = going[:, None] & (place == pick[:, None])
        energy.masked_fill_(picked, -torch.inf)
        extra.masked_fill_(picked, -torch.inf)
        places[:, step] = torch.where(going, pick, -1)
        columns[:, step] = column
    return Picks(places, columns, safe)


class Expansion:
    """The runs of a batch.

    Args:
        rows: Unit rows, shape (B, T, d).
        gram: Their inner products, shape (B, T, T), where they are at hand.
        norms: Lengths of the tokens, shape (B, T).
        weights: Weights, shape (B, A, T).
        steps: Count of picks.
        seeds: First picks, -1 where free, shape (B, A).
        lengths: Count of real tokens, shape (B,).
        tolerance: Relative residual energy at which a token is exhausted.
        picker: What goes through the steps of a block.
    """

    def __init__(
        self,
        rows: Tensor,
        gram: Tensor | None,
        norms: Tensor,
        weights: Tensor,
        steps: int,
        seeds: Tensor,
        lengths: Tensor | None,
        tolerance: float,
        picker: Picker = pick_in_block,
    ) -> None:
        batch, per_image, count = weights.shape
        runs, device, dtype = batch * per_image, rows.device, rows.dtype
        self._rows, self._gram, self._steps = rows, gram, steps
        self._tolerance, self._picker, self._shape = tolerance, picker, (batch, per_image)
        self._run = torch.arange(runs, device=device)
        self._image = self._run // per_image
        self._scale = root_worth(norms, weights).to(dtype).reshape(runs, count)
        # Where only zero tokens are left they go by index.
        self._fallback = -1 - torch.arange(count, device=device, dtype=dtype).repeat(runs, 1)
        self._fresh = (norms > 0).to(dtype)[self._image]  # energies at a restart
        if lengths is not None:
            padding = (torch.arange(count, device=device) >= lengths[:, None])[self._image]
            self._fresh.masked_fill_(padding, -torch.inf)
            self._fallback.masked_fill_(padding, -torch.inf)
        self._energy, self._seeds = self._fresh.clone(), seeds.reshape(runs)
        self._total = torch.full((runs,), steps, device=device)
        if lengths is not None:
            self._total = lengths[self._image].clamp_max(steps)
        # One row and one place more than needed take what is masked.
        self._factor = torch.zeros(runs, steps + 1, count, device=device, dtype=dtype)
        self._order = torch.full((runs, steps + 1), -1, device=device)
        self._restarts = torch.zeros(runs, steps + 1, dtype=torch.bool, device=device)
        self._made = torch.zeros(runs, device=device, dtype=torch.int64)
        self._since = torch.zeros_like(self._made)  # first pick of this pass of the expansion
        self._safe = torch.full_like(self._made, steps)
        self._most = 0  # picks that any run can have made

    def unfinished(self) -> Tensor:
        """Whether any run is short of picks, a scalar on the device."""
        return (self._made < self._total).any()

    def result(self) -> Run:
        """What the passes so far have made."""
        order, restarts = self._order[:, : self._steps], self._restarts[:, : self._steps]
        shape = (*self._shape, self._steps)
        return Run(order.reshape(shape), restarts.reshape(shape), self._safe.reshape(self._shape))

    def extend(self, passes: int) -> None:
        """Go through outer passes; each makes at least one pick of every run that lacks picks."""
        for _ in range(passes):
            self._extend()

    def _extend(self) -> None:
        tolerance = self._tolerance
        restart = ~((self._energy > tolerance).any(dim=1))
        forced = (self._made == 0) & (self._seeds >= 0)
        restart &= ~forced & (self._made < self._total)
        self._energy = torch.where(restart[:, None], self._fresh, self._energy)
        self._since = torch.where(restart, self._made, self._since)
        alive = (self._energy > tolerance).any(dim=1)
        extra = self._fallback.masked_fill(alive[:, None], -torch.inf)
        block, past = self._candidates(extra, forced)
        picks = self._picker(block, min(_PICKS, self._steps, block.energy.shape[1]), tolerance)
        slots, tokens = self._record(block, picks, restart)
        self._project(picks, slots, tokens, past)

    def _candidates(self, extra: Tensor, forced: Tensor) -> tuple[Block, Tensor]:
        run, count = self._run, self._energy.shape[1]
        alive = self._energy > self._tolerance
        score = torch.where(alive, self._energy.sqrt() * self._scale, extra)
        seed = torch.where(forced, self._seeds, 0)[:, None]
        first = torch.where(forced[:, None], torch.inf, score.gather(1, seed))
        front = score.scatter(1, seed, first)
        size = min(_CANDIDATES, count)
        if size < count:
            # Stable: of equal scores, the lowest indices come in, as they would be picked first.
            value, place = front.sort(dim=1, descending=True, stable=True)
            bar, rival = value[:, size], place[:, size]
            index = place[:, :size].sort(dim=1).values
        else:
            index = torch.arange(count, device=front.device).expand(len(run), count).contiguous()
            bar, rival = torch.full_like(front[:, 0], -torch.inf), torch.zeros_like(run)
        past = self._factor[:, : self._most]
        if self._most:
            steps = torch.arange(self._most, device=front.device)
            valid = steps >= self._since[:, None]
            past = past.gather(2, index[:, None].expand(-1, self._most, -1)) * valid[:, :, None]
            residual = torch.baddbmm(self._products(index), past.transpose(1, 2), past, alpha=-1)
        else:
            past, residual = past[:, :, :size], self._products(index)
        where = (index == self._seeds[:, None]).to(torch.int8).argmax(dim=1)
        block = Block(
            residual,
            self._energy.gather(1, index),
            self._scale.gather(1, index),
            extra.gather(1, index),
            index,
            bar,
            rival,
            torch.where(forced, where, -1),
            self._total - self._made,
        )
        return block, past

    def _products(self, index: Tensor) -> Tensor:
        """Inner products among tokens (R, m), shape (R, m, m)."""
        if self._gram is not None:
            return self._gram[self._image[:, None, None], index[:, :, None], index[:, None]]
        rows = self._rows[self._image[:, None], index]
        return rows @ rows.transpose(1, 2)

    def _columns(self, index: Tensor) -> Tensor:
        """Inner products of tokens (R, s) with all, shape (R, s, T)."""
        if self._gram is not None:
            return self._gram[self._image[:, None], index]
        batch, per_image = self._shape
        rows = self._rows[self._image[:, None], index]
        rows = rows.reshape(batch, per_image * index.shape[1], -1)
        columns = rows @ self._rows.transpose(1, 2)
        return columns.reshape(batch * per_image, index.shape[1], -1)

    def _record(self, block: Block, picks: Picks, restart: Tensor) -> tuple[Tensor, Tensor]:
        """Note picks; gives their places in the order and their tokens, (R, s) both."""
        run, made = self._run[:, None], picks.places >= 0
        tokens = block.tokens.gather(1, picks.places.clamp_min(0))
        slot = torch.arange(picks.places.shape[1], device=tokens.device)
        slots = torch.where(made, self._made[:, None] + slot, self._steps)
        self._order[run, slots] = tokens
        first = slots[:, :1]
        self._restarts[run, first] = restart[:, None]
        unsafe = picks.safe < picks.places.shape[1]
        stopped = torch.where(unsafe, self._made + picks.safe, self._steps)
        self._safe = torch.minimum(self._safe, stopped)
        return slots, tokens

    def _project(self, picks: Picks, slots: Tensor, tokens: Tensor, past: Tensor) -> None:
        """Bring all tokens up to date with the picks of a block."""
        made, places = picks.places >= 0, picks.places.clamp_min(0)
        width = places.shape[1]
        triangle = picks.columns.gather(2, places[:, None].expand(-1, width, -1)).transpose(1, 2)
        pivots = triangle.diagonal(dim1=1, dim2=2)
        spans = made & (pivots > 0)
        columns = self._columns(tokens)
        if self._most:
            mixed = past.gather(2, places[:, None].expand(-1, self._most, -1))
            columns = columns.baddbmm(
                mixed.transpose(1, 2), self._factor[:, : self._most], alpha=-1
            )
        one = torch.eye(width, device=tokens.device, dtype=columns.dtype)
        lower = torch.where(spans[:, :, None], triangle.tril(), one)
        added = torch.linalg.solve_triangular(lower, columns, upper=False)
        added = added.masked_fill(~spans[:, :, None], 0)
        self._energy = self._energy - added.square().sum(dim=1)
        run = self._run[:, None]
        self._factor[run, slots] = added
        kept = torch.where(made, tokens, tokens[:, :1])
        strike = torch.zeros_like(kept, dtype=columns.dtype).masked_fill(made[:, :1], -torch.inf)
        for state in (self._energy, self._fresh, self._fallback):
            state.scatter_add_(1, kept, strike)  # a scatter would not say who wins
        self._made = self._made + made.sum(dim=1)
        self._most = min(self._steps, self._most + width)
