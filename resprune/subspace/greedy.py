"""Greedy subspace expansion: the public functions, and the choice of the exact path.

On the CPU each image is ordered by itself, lazily in blocks (``lazy``): what an image gets does not
depend on its batch. Elsewhere the whole batch runs together without waiting for the host, in masked
blocks (``masked``, ``kernel``) or step by step (``recurrence``). ``paths`` chooses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from resprune.errors import ResPruneError
from resprune.subspace.features import Features, SharedFeatures
from resprune.subspace.gram import check_finite, unit_rows, working_dtype
from resprune.subspace.lazy import lazy_order
from resprune.subspace.masked import Expansion, Picker, pick_in_block
from resprune.subspace.paths import check_path, choose_path
from resprune.subspace.recurrence import Run, expand
from resprune.subspace.rules import TOLERANCE

_SHARED_GRAM_UP_TO = 4096  # tokens up to which settings of one image share its Gram matrix


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
    path: str = "auto",
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
            ill-conditioned for float32. On a GPU both wait for the host, before and after the
            loop; switch them off inside a CUDA graph.
        path: One of ``paths.PATHS``; ``auto`` leaves it to ``paths.choose_path``.

    Returns:
        Unique indices in pick order, shape (B, min(k, T)) or (B, A, min(k, T)), int64; -1 after
        the last token of an image shorter than ``k``.

    Raises:
        ResPruneError: As ``greedy_order``.

    Source: ResPrune, arXiv 2603.21105.
    """
    _check_shapes(tokens, weights, k, first, gram, lengths)
    if path == "auto":
        path = choose_path(tokens.device, tokens.shape[1], captured=not validate)
    check_path(path, tokens.device)
    if validate:
        _check_values(tokens, weights, first, gram, lengths)
        if path != "lazy":  # the lazy path sees it in the norms it needs anyhow
            check_finite(tokens)
    batch, count, _ = tokens.shape
    settings = weights if weights.ndim == 3 else weights.unsqueeze(1)
    per_image = settings.shape[1]
    steps = min(k, count)
    if first is None:
        seeds = torch.full((batch, per_image), -1, device=tokens.device)
    else:
        seeds = first.to(tokens.device).reshape(batch, per_image)
    if batch * per_image * steps == 0:
        order = torch.empty(batch, per_image, steps, dtype=torch.int64, device=tokens.device)
    else:
        with torch.autocast(tokens.device.type, enabled=False):
            if path == "lazy":
                order = _order_lazily(tokens, gram, settings, steps, seeds, lengths)
            else:
                order = _order_together(
                    path, tokens, gram, settings, steps, seeds, lengths, validate
                )
    return order if weights.ndim == 3 else order.squeeze(1)


def _order_lazily(
    tokens: Tensor,
    gram: Tensor | None,
    weights: Tensor,
    steps: int,
    seeds: Tensor,
    lengths: Tensor | None,
) -> Tensor:
    tolerance = TOLERANCE[working_dtype(tokens)]
    order = torch.full((*weights.shape[:2], steps), -1)
    for image, rows in enumerate(tokens):
        real = rows.shape[0] if lengths is None else int(lengths[image])
        shared = None if gram is None else gram[image, :real, :real]
        several = weights.shape[1] > 1
        budget = min(steps, real)
        features = (SharedFeatures if several else Features)(rows[:real], budget, shared)
        for setting, seed in enumerate(seeds[image].tolist()):
            order[image, setting, :budget] = torch.tensor(
                lazy_order(
                    features,
                    weights[image, setting, :real],
                    budget,
                    seed if seed >= 0 else None,
                    tolerance,
                )
            )
    return order


def _order_together(
    path: str,
    tokens: Tensor,
    gram: Tensor | None,
    weights: Tensor,
    steps: int,
    seeds: Tensor,
    lengths: Tensor | None,
    refine: bool,
) -> Tensor:
    rows, norms = unit_rows(tokens)
    tolerance = TOLERANCE[rows.dtype]
    lengths = None if lengths is None else lengths.to(tokens.device)
    shared = weights.shape[1] > 1 and tokens.shape[1] <= _SHARED_GRAM_UP_TO
    if gram is not None:
        gram = gram.to(rows.dtype)
    elif path == "recurrence" or shared:
        gram = rows @ rows.transpose(1, 2)
    if path == "recurrence":
        given = seeds.unsqueeze(-1)
        no_restart = torch.zeros_like(given, dtype=torch.bool)
        assert gram is not None
        run = expand(gram, norms, weights, steps, given, no_restart, lengths, tolerance)
    else:
        expansion = Expansion(
            rows, gram, norms, weights, steps, seeds, lengths, tolerance, _picker(path)
        )
        # Each pass makes a pick at least, but most make dozens: where the host may look, it looks
        # after as many as usually do.
        usual = min(steps, 4 + -(-steps // 32)) if refine else steps
        expansion.extend(usual)
        while refine and bool(expansion.unfinished()):
            expansion.extend(usual)
        run = expansion.result()
    if not refine or rows.dtype == torch.float64:
        return run.order
    unsafe = (run.safe < steps).any(dim=1)
    if bool(unsafe.any()):
        part = None if lengths is None else lengths[unsafe]
        again = _in_double(tokens[unsafe], weights[unsafe], part, run, unsafe, tolerance)
        run.order[unsafe] = again
    return run.order


def _in_double(
    tokens: Tensor,
    weights: Tensor,
    lengths: Tensor | None,
    run: Run,
    unsafe: Tensor,
    tolerance: float,
) -> Tensor:
    """Go on in float64; picks made while it was safe stay, so a smaller budget is a prefix."""
    steps = run.order.shape[-1]
    keep = torch.arange(steps, device=tokens.device) < run.safe[unsafe].unsqueeze(-1)
    rows, norms = unit_rows(tokens.double())
    return expand(
        rows @ rows.transpose(1, 2),
        norms,
        weights,
        steps,
        torch.where(keep, run.order[unsafe], -1),
        run.restarts[unsafe] & keep,
        lengths,
        tolerance,
    ).order


def _picker(path: str) -> Picker:
    if path == "lazy_masked":
        return pick_in_block
    from resprune.subspace.kernel import pick_in_kernel

    return pick_in_kernel


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
