"""Greedy subspace expansion as an incremental residual recurrence, batched and without branches.

Projecting from scratch costs O(T d j) at step j. The residual energies obey the recurrence of the
pivoted Cholesky factorisation instead: with ``s`` the token just picked and ``G`` the Gram matrix,
``c = (G[:, s] - L[:, :j] L[s, :j]^T) / sqrt(E_s)`` is its new column and ``E -= c^2``. It is run on
unit rows, where a residual energy is already relative to the token's own norm; the norm goes into
the weight. No step waits for the host, so it can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from resprune.subspace.rules import SAFE_PIVOT


class Run(NamedTuple):
    """An expansion: order and restarts (B, A, steps), and how many picks were safe (B, A)."""

    order: Tensor
    restarts: Tensor
    safe: Tensor


def root_worth(norms: Tensor, weights: Tensor) -> Tensor:
    """Square roots of what residual energies of unit rows are weighted with.

    Scores are compared by their square roots, residual norm x token norm x sqrt(weight): the same
    order, in half the exponent range.

    Args:
        norms: Lengths of the tokens, shape (B, T).
        weights: Weights, shape (B, A, T).

    Returns:
        At most 1 for each run, float64, shape (B, A, T).
    """
    scale = norms.unsqueeze(1).double() * weights.double().sqrt()
    return scale / scale.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)


def expand(
    gram: Tensor,
    norms: Tensor,
    weights: Tensor,
    steps: int,
    forced: Tensor,
    forced_restarts: Tensor,
    lengths: Tensor | None,
    tolerance: float,
) -> Run:
    """Run the recurrence.

    Args:
        gram: Inner products of the unit rows, shape (B, T, T).
        norms: Lengths of the tokens, shape (B, T).
        weights: Weights, shape (B, A, T).
        steps: Count of picks.
        forced: The first picks where they are given, -1 where free, shape (B, A, m).
        forced_restarts: Whether a given pick began a pass, shape (B, A, m).
        lengths: Count of real tokens, shape (B,).
        tolerance: Relative residual energy at which a token is exhausted.
    """
    batch, per_image, count = weights.shape
    runs = batch * per_image
    device, dtype = gram.device, gram.dtype
    never = -torch.inf

    scale = root_worth(norms, weights)
    # A restart begins at full norms, so its first pick is known beforehand. An exhausted token's
    # score is its negative rank in that order: it loses to every token that is not exhausted, and
    # a negative best score is the sign to restart. One argmax serves both, with no branch.
    rank = torch.empty_like(scale, dtype=dtype)
    ranks = torch.arange(count, device=device, dtype=dtype).expand_as(rank)
    rank.scatter_(-1, scale.argsort(dim=-1, descending=True, stable=True), ranks)
    full = (norms > 0).to(dtype).unsqueeze(1).expand(batch, per_image, count)

    # (energy, full energy, score when exhausted): one scatter strikes a picked token from all.
    state = torch.stack((full, full, -1 - rank), dim=2).reshape(runs, 3, count)
    if lengths is not None:
        real = torch.arange(count, device=device) < lengths[:, None]
        real = real[:, None].expand(batch, per_image, count).reshape(runs, 1, count)
        state = state.masked_fill(~real, never)
    energy, fresh, fallback = state.unbind(1)
    scale = scale.to(dtype).reshape(runs, count)
    forced, forced_restarts = forced.reshape(runs, -1), forced_restarts.reshape(runs, -1)

    run = torch.arange(runs, device=device)
    image = run // per_image
    factor = torch.empty(runs, steps, count, device=device, dtype=dtype)
    order = torch.empty(runs, steps, device=device, dtype=torch.int64)
    restarts = torch.zeros(runs, steps, device=device, dtype=torch.bool)
    since = torch.zeros(runs, 1, device=device, dtype=torch.int64)  # first column of this pass
    safe = torch.full((runs, 1), steps, device=device)
    column_index = torch.arange(steps, device=device)
    for step in range(steps):
        score = torch.where(energy > tolerance, energy.sqrt().mul_(scale), fallback)
        best, pick = score.max(dim=1)
        restart = (best < 0) & (best > never)
        if step < forced.shape[1]:
            given = forced[:, step] >= 0
            restart = torch.where(given, forced_restarts[:, step], restart)
            pick = torch.where(given, forced[:, step], pick)
        order[:, step] = torch.where(best == never, -1, pick)
        restarts[:, step] = restart
        restart = restart.unsqueeze(1)
        torch.where(restart, fresh, energy, out=energy)
        since = torch.where(restart, step, since)

        own = energy.gather(1, pick.unsqueeze(1))
        # A token without energy (a zero vector) spans nothing.
        spans = own > tolerance
        safe = torch.where(spans & (own < SAFE_PIVOT), safe.clamp_max(step), safe)
        if step + 1 == steps:
            break
        column = gram[image, pick]
        if step:
            past = factor[:, :step]
            mixed = past[run, :, pick] * (column_index[:step] >= since)
            column = torch.baddbmm(column.unsqueeze(1), mixed.unsqueeze(1), past, alpha=-1)
            column = column.squeeze(1)
        column = column * torch.where(spans, own.rsqrt(), 0)
        factor[:, step] = column
        energy.addcmul_(column, column, value=-1)
        state.scatter_(2, pick[:, None, None].expand(runs, 3, 1), never)
    shape = (batch, per_image)
    return Run(order.reshape(*shape, steps), restarts.reshape(*shape, steps), safe.reshape(shape))
