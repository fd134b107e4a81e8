"""Seed strategies: which visual token the greedy expansion starts from.

ResPrune (arXiv 2603.21105) is said to start from the token that the vision encoder's CLS token
attends to most, and from the longest one where there is no CLS token; the other strategies are this
project's (docs/explanation/method.md). Pure tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from resprune.errors import ResPruneError, UnsupportedModelError, near_names

SEED_STRATEGIES = ("cls_attention", "received_attention", "l2_norm", "relevance", "none")
"""Every seed strategy. The two attention strategies read the signal of the same name."""

_SIGNALS = ("cls_attention", "received_attention")


def seed_index(
    strategy: str,
    *,
    tokens: Tensor,
    relevance: Tensor | None = None,
    signals: Mapping[str, Tensor] | None = None,
) -> Tensor | None:
    """Choose the first token of one image.

    Args:
        strategy: One of ``SEED_STRATEGIES``.
        tokens: Visual tokens, shape (T, d).
        relevance: Normalised relevance, shape (T,); read by ``relevance`` alone.
        signals: Per-token signals by name, each of shape (T,).

    Returns:
        The index as an int64 tensor of shape (), ties to the lowest index; None for ``none``,
        where the expansion starts from the first greedy score.

    Raises:
        ResPruneError: An unknown strategy, no token, a signal that is absent, of another length or
            not finite.
    """
    batch = seed_index_batch(
        strategy,
        tokens=tokens.unsqueeze(0),
        relevance=None if relevance is None else relevance.unsqueeze(0),
        signals={name: value.unsqueeze(0) for name, value in (signals or {}).items()},
    )
    return None if batch is None else batch[0]


def seed_index_batch(
    strategy: str,
    *,
    tokens: Tensor,
    relevance: Tensor | None = None,
    signals: Mapping[str, Tensor] | None = None,
    lengths: Tensor | None = None,
) -> Tensor | None:
    """Choose the first token of each image of a batch.

    Args:
        strategy: One of ``SEED_STRATEGIES``.
        tokens: Visual tokens, shape (B, T, d).
        relevance: Normalised relevance, shape (B, T).
        signals: Per-token signals by name, each of shape (B, T).
        lengths: Count of real tokens of each image, shape (B,), when padded at the end.

    Returns:
        Indices of shape (B,), or None for ``none``.

    Raises:
        ResPruneError: As ``seed_index``.
    """
    if strategy not in SEED_STRATEGIES:
        raise ResPruneError(
            f"unknown seed strategy {strategy!r}. {near_names(str(strategy), SEED_STRATEGIES)}"
        )
    if tokens.ndim != 3 or tokens.shape[1] == 0:
        raise ResPruneError(
            f"tokens have shape {tuple(tokens.shape)}; a seed needs images of at least one token."
        )
    if strategy == "none":
        return None
    score = _score(strategy, tokens, relevance, signals or {})
    if lengths is not None:
        real = torch.arange(score.shape[1], device=score.device) < lengths.to(score.device)[:, None]
        score = score.masked_fill(~real, -torch.inf)
    index: Tensor = score.argmax(dim=1)
    return index


def _score(
    strategy: str, tokens: Tensor, relevance: Tensor | None, signals: Mapping[str, Tensor]
) -> Tensor:
    if strategy == "l2_norm":
        # Double precision: the squares of large float32 values overflow.
        score: Tensor = tokens.double().norm(dim=-1)
    elif strategy == "relevance":
        if relevance is None:
            raise ResPruneError(
                "seed strategy 'relevance' needs the relevance map; compute relevance_scores or "
                "use seed strategy 'l2_norm'."
            )
        score = relevance
    else:
        if strategy not in signals:
            present = [name for name in _SIGNALS if name in signals]
            instead = " or ".join(repr(name) for name in [*present, "l2_norm"])
            raise UnsupportedModelError(
                f"seed strategy {strategy!r} needs the signal {strategy!r}, which this vision "
                f"tower does not give (available signals: {', '.join(sorted(signals)) or 'none'}). "
                f"Use seed strategy {instead} instead."
            )
        score = signals[strategy]
    if score.shape != tokens.shape[:2]:
        raise ResPruneError(
            f"seed strategy {strategy!r}: the signal has shape {tuple(score.shape[1:])} and the "
            f"image {tokens.shape[1]} tokens; give one value a token."
        )
    if not bool(torch.isfinite(score).all()):
        raise ResPruneError(
            f"seed strategy {strategy!r} met a non-finite value; check the vision tower's output "
            "(float16 overflow is the usual cause: load the model in bfloat16 or float32)."
        )
    return score
