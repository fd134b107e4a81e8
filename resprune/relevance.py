"""Relevance of visual tokens to the nouns of a prompt, and the weights made from it.

Source: ResPrune, arXiv 2603.21105 (cosines with the prompt's nouns, weighted ``r^alpha``). Pooling
over nouns, normalization and floor are this project's (docs/explanation/method.md). Pure tensors:
nothing here knows of transformers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resprune.errors import ResPruneError, near_names

POOLINGS = ("max", "mean", "pooled")
NORMALIZATIONS = ("minmax", "shift", "clip")


def relevance_scores(
    tokens: Tensor,
    nouns: Tensor,
    pooling: str = "max",
    normalization: str = "minmax",
    eps: float = 0.01,
) -> Tensor:
    """Score each visual token by its cosine with the nouns of the prompt.

    Args:
        tokens: Visual tokens in the LLM's input-embedding space, shape (T, d).
        nouns: Noun embeddings in the same space, shape (L, d); L may be 0.
        pooling: ``max`` and ``mean`` pool the cosines over nouns; ``pooled`` is the cosine with
            the mean noun embedding.
        normalization: ``minmax`` over the image, ``shift`` = (1 + cos) / 2, or ``clip`` =
            max(cos, 0).
        eps: Floor in (0, 1], so that no token is excluded outright.

    Returns:
        Relevance in [eps, 1], shape (T,), float32 (float64 for float64 tokens), on the tokens'
        device. All ones when there is no noun or when every token scores the same.

    Raises:
        ResPruneError: An unknown pooling or normalization, eps out of range, shapes that do not
            fit, or a value that is not finite.

    Source: ResPrune, arXiv 2603.21105, for the cosine; its defaults are this project's.
    """
    _check_name(pooling, POOLINGS, "pooling")
    _check_name(normalization, NORMALIZATIONS, "normalization")
    if not (math.isfinite(eps) and 0.0 < eps <= 1.0):
        raise ResPruneError(f"eps is {eps}; give a floor above 0 and at most 1, such as 0.01.")
    _check_matrix(tokens, "tokens")
    _check_matrix(nouns, "nouns")
    if tokens.shape[1] != nouns.shape[1]:
        raise ResPruneError(
            f"tokens have width {tokens.shape[1]} and nouns width {nouns.shape[1]}; both must be "
            "in the LLM's input-embedding space."
        )
    if pooling == "pooled" and nouns.shape[0]:
        nouns = mean_noun(nouns.to(_exact(tokens)))
    return relevance_of_cosines(noun_cosines(tokens, nouns), pooling, normalization, eps)


@torch.no_grad()
def noun_cosines(tokens: Tensor, nouns: Tensor) -> Tensor:
    """Compute the cosine of each noun with each visual token, in float32 or better.

    Args:
        tokens: Visual tokens in the LLM's input-embedding space, shape (T, d).
        nouns: Noun embeddings in the same space, shape (L, d).

    Returns:
        Shape (L, T), float32 (float64 for float64 tokens), on the tokens' device; zero where one
        of the two is zero.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        dtype = _exact(tokens)
        words = nouns.to(device=tokens.device, dtype=dtype)
        return (_unit_rows(tokens.to(dtype)) @ _unit_rows(words).T).T


def mean_noun(nouns: Tensor) -> Tensor:
    """Return the direction of the mean of noun embeddings (L, d), shape (1, d)."""
    # divided by the largest entry first, so that the sum cannot overflow
    return (nouns / nouns.abs().amax().clamp_min(_tiny(nouns.dtype))).mean(dim=0, keepdim=True)


@torch.no_grad()
def relevance_of_cosines(
    cosines: Tensor, pooling: str = "max", normalization: str = "minmax", eps: float = 0.01
) -> Tensor:
    """Make relevance from cosines, without waiting for the device.

    Args:
        cosines: Cosine of each noun with each visual token, shape (L, T); for ``pooled``, of the
            mean noun alone, shape (1, T).
        pooling: See ``relevance_scores``.
        normalization: See ``relevance_scores``.
        eps: See ``relevance_scores``.

    Returns:
        Relevance in [eps, 1], shape (T,); all ones when there is no noun.
    """
    if 0 in cosines.shape:
        return cosines.new_ones(cosines.shape[1])
    score = cosines.T.mean(dim=1) if pooling == "mean" else cosines.T.amax(dim=1)
    return _normalize(score.clamp(-1.0, 1.0), normalization).clamp(eps, 1.0)


def relevance_weights(relevance: Tensor, alpha: float | Tensor) -> Tensor:
    """Turn relevance into the weights of the greedy scores, ``g(r) = r^alpha``.

    Args:
        relevance: Normalised relevance, shape (..., T).
        alpha: One exponent, or a tensor of exponents of shape (..., A) whose leading dimensions
            broadcast with those of ``relevance``. Zero is pure geometry.

    Returns:
        Weights of shape (..., T) for a number, (..., A, T) for a tensor; float32 or float64.

    Raises:
        ResPruneError: An alpha that is negative or not finite, or relevance that is negative or
            not finite.

    Source: ResPrune, arXiv 2603.21105, ``g(r) = r^alpha``.
    """
    if not bool((torch.isfinite(relevance) & (relevance >= 0)).all()):
        raise ResPruneError("relevance holds negative or non-finite values; pass relevance_scores.")
    values = relevance if relevance.dtype == torch.float64 else relevance.float()
    if not isinstance(alpha, Tensor):
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ResPruneError(f"alpha is {alpha}; give a finite number of at least 0.")
        return values**alpha
    if alpha.ndim == 0:
        return relevance_weights(relevance, float(alpha))
    exponents = alpha.to(device=values.device, dtype=values.dtype)
    bad = exponents[~(torch.isfinite(exponents) & (exponents >= 0))]
    if bad.numel():
        raise ResPruneError(f"alpha holds {bad[0].item()}; give finite numbers of at least 0.")
    return values.unsqueeze(-2) ** exponents.unsqueeze(-1)


def _normalize(score: Tensor, normalization: str) -> Tensor:
    low, high = score.amin(), score.amax()
    span = high - low
    # A map that is constant up to rounding says nothing; stretching it would rank tokens by noise.
    constant = span <= 16 * torch.finfo(score.dtype).eps
    if normalization == "minmax":
        scaled = (score - low) / span.clamp_min(_tiny(score.dtype))
    elif normalization == "shift":
        scaled = (1 + score) / 2
    else:
        scaled = score.clamp_min(0)
    return torch.where(constant, torch.ones_like(score), scaled)


def _exact(tokens: Tensor) -> torch.dtype:
    return torch.float64 if tokens.dtype == torch.float64 else torch.float32


def _unit_rows(rows: Tensor) -> Tensor:
    """Rows of length 1 whatever their scale; zero rows stay zero."""
    tiny = _tiny(rows.dtype)
    rows = rows / rows.abs().amax(dim=-1, keepdim=True).clamp_min(tiny)
    unit: Tensor = rows / rows.norm(dim=-1, keepdim=True).clamp_min(tiny)
    return unit


def _tiny(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).tiny


def _check_name(value: str, allowed: tuple[str, ...], what: str) -> None:
    if value not in allowed:
        raise ResPruneError(f"unknown {what} {value!r}. {near_names(str(value), allowed)}")


def _check_matrix(value: Tensor, what: str) -> None:
    if value.ndim != 2:
        raise ResPruneError(f"{what} have shape {tuple(value.shape)}; give a matrix (rows, d).")
    if not value.is_floating_point():
        raise ResPruneError(f"{what} have dtype {value.dtype}; give floating-point embeddings.")
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        row = int((~finite).any(dim=1).nonzero()[0, 0])
        raise ResPruneError(
            f"{what} hold a non-finite value in row {row}; check the encoder's output "
            "(float16 overflow is the usual cause: load the model in bfloat16 or float32)."
        )
