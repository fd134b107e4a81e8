"""Attention masks of layers that hold fewer tokens than layer 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import is_flash_attention_requested

from resprune.errors import ResPruneError


def prompt_mask(
    mask: Tensor | None, index: Tensor, valid: Tensor, full: bool, config: Any
) -> Tensor | None:
    """Return the mask of a shortened prompt.

    Args:
        mask: What the model made for the whole prompt: None or 2-D (causal), or 4-D.
        index: Column of the prompt that each slot holds, shape (B, n), rising where valid.
        valid: False on padding, shape (B, n).
        full: Whether there is no padding.
        config: The decoder's config.

    Returns:
        A mask of the same kind; None where causality says it all.
    """
    _check_kind(mask)
    if mask is not None and mask.ndim == 4:
        mask = mask.expand(len(index), -1, -1, -1)
        mask = mask.gather(2, index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
        mask = mask.gather(3, index[:, None, None].expand(-1, *mask.shape[1:3], -1))
        return mask.masked_fill(~valid[:, None, None], _unseen(mask))
    if full:
        return None
    if is_flash_attention_requested(config):
        return valid
    causal = index[:, None, :, None] >= index[:, None, None]
    return causal & valid[:, None, None]


def step_mask(
    mask: Tensor | None, valid: Tensor, full: bool, grown: int, config: Any
) -> Tensor | None:
    """Return the mask of tokens that follow a shortened prompt.

    The given mask may be that of a layer with another length, so only its last columns are used.

    Args:
        mask: What the model made: None, 2-D (B, S + grown) or 4-D (B, 1, q, S + grown).
        valid: False on padding of the shortened prompt, shape (B, n).
        full: Whether there is no padding.
        grown: Tokens behind the prompt, those of this step among them.
        config: The decoder's config.

    Returns:
        A mask over n + grown columns; None where there is nothing to hide.
    """
    _check_kind(mask)
    if mask is None:
        if full:
            return None
        mask = valid.new_ones(len(valid), grown)
        if not is_flash_attention_requested(config):
            mask = mask[:, None, None]
    tail = mask[..., -grown:].expand(len(valid), *mask.shape[1:-1], -1)
    head = valid[(slice(None), *[None] * (mask.ndim - 2))].expand(*tail.shape[:-1], -1)
    if mask.is_floating_point():
        head = torch.zeros_like(head, dtype=mask.dtype).masked_fill(~head, _unseen(mask))
    return torch.cat([head.to(mask.dtype), tail], dim=-1)


def _check_kind(mask: Any) -> None:
    if mask is not None and not isinstance(mask, Tensor):
        raise ResPruneError(
            f"the attention mask is a {type(mask).__name__}, which pruning inside the LLM cannot "
            "shorten; load the model with attn_implementation='sdpa'"
        )


def _unseen(mask: Tensor) -> float:
    return torch.finfo(mask.dtype).min if mask.is_floating_point() else 0
