"""Greedy subspace expansion as an incremental residual recurrence, batched.

Projecting from scratch costs O(T d j) at step j. The residual energies obey the recurrence of the
pivoted Cholesky factorisation instead: with ``s`` the token just picked and ``G`` the Gram matrix,
``c = (G[:, s] - L[:, :j] L[s, :j]^T) / sqrt(E_s)`` is its new column and ``E -= c^2``. It is run on
unit rows, where a residual energy is already relative to the token's own norm; the norm goes into
the weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from resprune.errors import ResPruneError
from resprune.subspace.gram import unit_rows

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Residual energy, relative to the token's own, at which a token is exhausted."""

# The recurrence divides by the pivot's residual energy, so rounding grows with its inverse. On
# ill-conditioned features float32 energies err by up to 1e-5 of the token's own while pivots stay
# above this, and by up to 4e-3 below; so from the first pivot below it on, float64 takes over.
_SAFE_PIVOT = 0.1

# Enough rows to spread the cost of a call, few enough that their factors stay in the cache.
_CHUNK_FLOATS = 1 << 18


def greedy_order(
    tokens: Tensor, weights: Tensor, k: int, first: int | Tensor | None = None
) -> Tensor:
    """Order the visual tokens of one image by greedy subspace expansion.

    Each pick is the token of largest residual energy times weight,
    ``argmax_i ||v_i - P_S v_i||^2 w_i``, ties to the lowest index. Tokens whose residual energy is
    at rounding level relative to their own norm are passed over; when only they are left, the
    expansion restarts on them. Orders are nested: a smaller ``k`` gives a prefix.

    Args:
        tokens: Visual tokens in the LLM's input-embedding space, shape (T, d), any float dtype;
            computed in float32, or float64 for float64 tokens.
        weights: Non-negative weights g(r), shape (T,); see ``relevance_weights``.
        k: Count of tokens to keep, at least 1.
        first: Index of the seed, or None to start from the first greedy score.

    Returns:
        Unique indices in pick order, shape (min(k, T),), int64, on the tokens' device.

    Raises:
        ResPruneError: Shapes that do not fit, a budget below 1, a seed outside the image, negative
            weights, or values that are not finite.

    Source: ResPrune, arXiv 2603.21105.
    """
    if tokens.ndim != 2 or weights.ndim != 1:
        raise ResPruneError(
            f"tokens have shape {tuple(tokens.shape)} and weights {tuple(weights.shape)}; give "
            "(T, d) and (T,), or use greedy_order_batch."
        )
    seeds = None
    if first is not None:
        seeds = torch.as_tensor(first, dtype=torch.int64, device=tokens.device).reshape(1)
        if not tokens.is_cuda and not 0 <= int(seeds) < max(tokens.shape[0], 1):
            raise ResPruneError(
                f"first is {int(seeds)} and the image has {tokens.shape[0]} tokens; give an index "
                "of a token, or None."
            )
    return greedy_order_batch(tokens.unsqueeze(0), weights.unsqueeze(0), k, seeds)[0]


@torch.no_grad()
def greedy_order_batch(
    tokens: Tensor,
    weights: Tensor,
    k: int,
    first: Tensor | None = None,
    *,
    gram: Tensor | None = None,
    lengths: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    """Order the tokens of several images, each under one or several settings.

    Args:
        tokens: Visual tokens, shape (B, T, d), padded at the end where ``lengths`` is given.
        weights: Non-negative weights, shape (B, T), or (B, A, T) for A settings (alpha, seed) of
            each image, which share its Gram matrix.
        k: Count of tokens to order, at least 1.
        first: Seeds, shape (B,) or (B, A) like the weights; -1 or None for no seed.
        gram: ``gram_matrix(tokens)``, shape (B, T, T), when it is at hand.
        lengths: Count of real tokens of each image, shape (B,).
        validate: Check the values, and go on in float64 from where the picks are too
            ill-conditioned for float32. Both need host synchronisations outside the loop; switch
            them off inside a CUDA graph.

    Returns:
        Unique indices in pick order, shape (B, min(k, T)) or (B, A, min(k, T)), int64; -1 after
        the last token of an image shorter than ``k``.

    Raises:
        ResPruneError: As ``greedy_order``.

    Source: ResPrune, arXiv 2603.21105.
    """
    _check_shapes(tokens, weights, k, first, gram, lengths)
    if validate:
        _check_values(tokens, weights, first, gram, lengths)
    batch, count, _ = tokens.shape
    settings = weights if weights.ndim == 3 else weights.unsqueeze(1)
    per_image = settings.shape[1]
    steps = min(k, count)
    order = torch.empty(batch, per_image, steps, dtype=torch.int64, device=tokens.device)
    if order.numel():
        seeds = (
            first if first is not None else torch.full(weights.shape[:-1], -1, device=tokens.device)
        )
        seeds = seeds.to(tokens.device).reshape(batch, per_image, 1)
        chunk = (
            max(1, _CHUNK_FLOATS // (per_image * steps * count)) if not tokens.is_cuda else batch
        )
        with torch.autocast(tokens.device.type, enabled=False):
            for start in range(0, batch, chunk):
                part = slice(start, start + chunk)
                order[part] = _order_chunk(
                    tokens[part],
                    None if gram is None else gram[part],
                    settings[part],
                    steps,
                    seeds[part],
                    None if lengths is None else lengths[part].to(tokens.device),
                    refine=validate,
                )
    return order if weights.ndim == 3 else order.squeeze(1)


def _order_chunk(
    tokens: Tensor,
    gram: Tensor | None,
    weights: Tensor,
    steps: int,
    seeds: Tensor,
    lengths: Tensor | None,
    *,
    refine: bool,
) -> Tensor:
    rows, norms = unit_rows(tokens)
    tolerance = TOLERANCE[rows.dtype]
    gram = rows @ rows.transpose(1, 2) if gram is None else gram.to(rows.dtype)
    no_restart = torch.zeros_like(seeds, dtype=torch.bool)
    run = _expand(gram, norms, weights, steps, seeds, no_restart, lengths, tolerance)
    if not refine or rows.dtype == torch.float64:
        return run.order
    unsafe = (run.safe < steps).any(dim=1)
    if not bool(unsafe.any()):
        return run.order
    # The picks made while it was safe stay, so that a smaller budget remains a prefix.
    keep = torch.arange(steps, device=tokens.device) < run.safe[unsafe].unsqueeze(-1)
    rows, norms = unit_rows(tokens[unsafe].double())
    again = _expand(
        rows @ rows.transpose(1, 2),
        norms,
        weights[unsafe],
        steps,
        torch.where(keep, run.order[unsafe], -1),
        run.restarts[unsafe] & keep,
        None if lengths is None else lengths[unsafe],
        tolerance,
    )
    run.order[unsafe] = again.order
    return run.order


class _Run(NamedTuple):
    """An expansion: order and restarts (B, A, steps), and how many picks were safe (B, A)."""

    order: Tensor
    restarts: Tensor
    safe: Tensor


def _expand(
    gram: Tensor,
    norms: Tensor,
    weights: Tensor,
    steps: int,
    forced: Tensor,
    forced_restarts: Tensor,
    lengths: Tensor | None,
    tolerance: float,
) -> _Run:
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

    # Scores are compared by their square roots, residual norm x token norm x sqrt(weight): the
    # same order, in half the exponent range. Scaled to at most 1 for each run.
    scale = norms.unsqueeze(1).double() * weights.double().sqrt()
    scale = scale / scale.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
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
        if step + 1 == steps:
            break
        restarts[:, step] = restart
        restart = restart.unsqueeze(1)
        torch.where(restart, fresh, energy, out=energy)
        since = torch.where(restart, step, since)

        own = energy.gather(1, pick.unsqueeze(1))
        column = gram[image, pick]
        if step:
            past = factor[:, :step]
            mixed = past[run, :, pick] * (column_index[:step] >= since)
            column = torch.baddbmm(column.unsqueeze(1), mixed.unsqueeze(1), past, alpha=-1)
            column = column.squeeze(1)
        # A token without energy (a zero vector) spans nothing.
        spans = own > tolerance
        column = column * torch.where(spans, own.rsqrt(), 0)
        unsafe = spans & (own < _SAFE_PIVOT)
        safe = torch.where(unsafe, safe.clamp_max(step + 1), safe)
        factor[:, step] = column
        energy.addcmul_(column, column, value=-1)
        state.scatter_(2, pick[:, None, None].expand(runs, 3, 1), never)
    shape = (batch, per_image)
    return _Run(order.reshape(*shape, steps), restarts.reshape(*shape, steps), safe.reshape(shape))


def _check_shapes(
    tokens: Tensor,
    weights: Tensor,
    k: int,
    first: Tensor | None,
    gram: Tensor | None,
    lengths: Tensor | None,
) -> None:
    if tokens.ndim != 3 or not tokens.is_floating_point():
        raise ResPruneError(
            f"tokens have shape {tuple(tokens.shape)} and dtype {tokens.dtype}; give "
            "floating-point features (B, T, d)."
        )
    batch, count, _ = tokens.shape
    if weights.ndim not in (2, 3) or (weights.shape[0], weights.shape[-1]) != (batch, count):
        raise ResPruneError(
            f"weights have shape {tuple(weights.shape)}; give ({batch}, {count}) or "
            f"({batch}, A, {count}), one weight a token."
        )
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ResPruneError(f"budget k is {k!r}; give a count of at least 1 token.")
    expected = {
        "first": (first, tuple(weights.shape[:-1])),
        "gram": (gram, (batch, count, count)),
        "lengths": (lengths, (batch,)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and tuple(value.shape) != shape:
            raise ResPruneError(f"{name} has shape {tuple(value.shape)}; give {shape}.")


def _check_values(
    tokens: Tensor,
    weights: Tensor,
    first: Tensor | None,
    gram: Tensor | None,
    lengths: Tensor | None,
) -> None:
    if not bool(torch.isfinite(tokens).all()):
        bad = (~torch.isfinite(tokens)).any(dim=-1).nonzero()[0].tolist()
        raise ResPruneError(
            f"tokens hold a non-finite value (image {bad[0]}, token {bad[1]}); check the encoder's "
            "output (float16 overflow is the usual cause: load the model in bfloat16 or float32)."
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise ResPruneError(
            "weights hold negative or non-finite values; make them with relevance_weights."
        )
    count = tokens.shape[1]
    limit = count if lengths is None else lengths.view(-1, *[1] * (weights.ndim - 2))
    if lengths is not None and not bool(((lengths >= 1) & (lengths <= count)).all()):
        raise ResPruneError(f"lengths are {lengths.tolist()}; each must be from 1 to {count}.")
    if first is not None and not bool(((first >= -1) & (first < limit)).all()):
        raise ResPruneError(
            f"first is {first.tolist()}; give indices below the image's token count, or -1 for no "
            "seed."
        )
    if gram is not None:
        diagonal = gram.diagonal(dim1=1, dim2=2)
        if not bool(((diagonal - 1).abs().lt(1e-2) | (diagonal == 0)).all()):
            raise ResPruneError("gram is not of unit rows; make it with gram_matrix(tokens).")
