"""The oracle of the greedy expansion: float64, and a projection from scratch at every step."""

from __future__ import annotations

import torch
from torch import Tensor

REFERENCE_TOLERANCE = 1e-10


@torch.no_grad()
def reference_order(
    tokens: Tensor,
    weights: Tensor,
    k: int,
    first: int | None = None,
    tolerance: float = REFERENCE_TOLERANCE,
) -> Tensor:
    """Order tokens by brute force; slow, and written to be read.

    At each step the kept tokens of this pass are factorised anew and every token is projected on
    their span. A token whose residual energy is at most ``tolerance`` of its own energy is
    exhausted and passed over; when only such tokens are left, a new pass starts on them from an
    empty subspace.

    Args:
        tokens: Visual tokens, shape (T, d).
        weights: Non-negative weights g(r), shape (T,).
        k: Count of tokens to order.
        first: Index of the seed, or None to start from the first greedy score.
        tolerance: Relative residual energy at which a token is exhausted.

    Returns:
        Indices in pick order, shape (min(k, T),), int64.

    Source: ResPrune, arXiv 2603.21105, residual energy ``||v - P_S v||^2 g(r)``.
    """
    rows = tokens.double().cpu()
    weight = weights.double().cpu()
    own = (rows**2).sum(dim=1)
    left = torch.ones(len(rows), dtype=torch.bool)
    subspace: list[int] = []
    order: list[int] = []

    def pick(index: int) -> None:
        order.append(index)
        subspace.append(index)
        left[index] = False

    if first is not None and k > 0:
        pick(int(first))
    while len(order) < min(k, len(rows)):
        energy = residual_energy(rows, subspace)
        fresh = left & (energy > tolerance * own)
        if not fresh.any() and subspace:
            subspace.clear()
            continue
        # With an empty subspace only zero tokens are exhausted: nothing is left but them.
        candidates = fresh if fresh.any() else left
        score = (energy * weight).masked_fill(~candidates, -torch.inf)
        pick(int(score.argmax()))
    return torch.tensor(order, dtype=torch.int64)


def residual_energy(rows: Tensor, subspace: list[int]) -> Tensor:
    """Energy of each row outside the span of some of them, by a fresh factorisation.

    Args:
        rows: Float64 rows, shape (T, d).
        subspace: Indices of the spanning rows.

    Returns:
        ``||v_i - P_S v_i||^2``, shape (T,).
    """
    spanning = rows[subspace]
    spanning = spanning[(spanning != 0).any(dim=1)]
    if not len(spanning):
        return (rows**2).sum(dim=1)
    basis, _ = torch.linalg.qr((spanning / spanning.norm(dim=1, keepdim=True)).T)
    residual = rows - (rows @ basis) @ basis.T
    residual = residual - (residual @ basis) @ basis.T  # once more, against cancellation
    energy: Tensor = (residual**2).sum(dim=1)
    return energy
