"""How much energy is left outside the subspace of the picks: what energy budgets stop by."""

from __future__ import annotations

import torch
from torch import Tensor

from resprune.subspace.rules import TOLERANCE


@torch.no_grad()
def energy_curve(tokens: Tensor, order: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the share of weighted energy left after each pick.

    ``e(k) = sum_i w_i E_i(k) / sum_i w_i ||v_i||^2`` with ``E_i(k)`` the squared residual of token
    i outside the span of the first k picks. It never rises, and is not reset where the expansion
    restarts: an exhausted pick adds nothing to the span.

    Args:
        tokens: Visual tokens, shape (T, d).
        order: Pick order, shape (m,).
        weights: Non-negative weights, shape (T,); None weighs every token alike.

    Returns:
        Shape (m,), float64; zeros where no token has energy.

    Source: residual energy as in ResPrune, arXiv 2603.21105.
    """
    rows = tokens.double()
    rows = rows / rows.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    norms = (rows**2).sum(dim=1)
    weight = torch.ones_like(norms) if weights is None else weights.to(norms)
    picks = rows[order]
    factor, live = _cholesky(picks @ picks.T)
    spread = torch.linalg.solve_triangular(factor, picks @ rows.T, upper=False)
    taken = (spread**2 * live[:, None]).cumsum(dim=0)
    left = ((norms - taken).clamp_min(0) * weight).sum(dim=1)
    total = (norms * weight).sum()
    return torch.where(total > 0, left / total.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def _cholesky(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Factor a Gram matrix, passing over rows that depend on those before.

    Returns:
        Lower triangle (m, m), with 1 on the diagonal and 0 below where a row is passed over; and
        which rows were not, shape (m,).
    """
    whole, failed = torch.linalg.cholesky_ex(gram)
    live = whole.diagonal() ** 2 > TOLERANCE[torch.float64] * gram.diagonal()
    if not failed and live.all():  # as nearly always: none depends on those before
        return whole, live
    factor = torch.zeros_like(gram)
    live = torch.zeros(len(gram), dtype=torch.bool, device=gram.device)
    rest, norms = gram.clone(), gram.diagonal().clone()
    for j in range(len(gram)):
        pivot = rest[j, j]
        live[j] = pivot > TOLERANCE[torch.float64] * norms[j]
        column = torch.where(live[j], rest[:, j] / pivot.clamp_min(1e-300).sqrt(), 0.0)
        column[:j] = 0.0
        rest = rest - torch.outer(column, column)
        factor[:, j] = column
    diagonal = torch.where(live, factor.diagonal(), 1.0)
    return factor - factor.diagonal().diag() + diagonal.diag(), live
