"""Kept indices -> shorter model inputs, for models with 1-D positions.

The seam is transformers' own ``mm_encoder_outputs``: placeholders of dropped tokens leave
``input_ids``, and the kept features are handed in, so no model code is patched. Pure tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from resprune.errors import ResPruneError, near_names

POSITIONS = ("keep", "compact")
PADDING_SIDES = ("left", "right")
IGNORED_LABEL = -100

# tensors of shape (B, S) that follow input_ids, with what fills their padding
_FOLLOWERS = {
    "labels": IGNORED_LABEL,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
}


@dataclass
class Prepared:
    """Model inputs of the shortened sequences.

    Attributes:
        kwargs: For ``model(**kwargs)`` or ``model.generate(**kwargs)``: ``input_ids``,
            ``attention_mask`` (always given: without it, positions with gaps are taken for packed
            sequences), ``position_ids``, ``mm_encoder_outputs`` when there are images, and the
            shortened ``labels`` and token types that were in the inputs.
        kept_positions: Columns of the original row that were kept, padding excluded, one (n_b,)
            int64 tensor on the CPU a row.
        lengths: Kept length n_b of each row.
        next_positions: Position id of the token after each row, shape (B,), int64, on the CPU.
        newlines: True where ``input_ids`` hold newline tokens, placeholders that are no visual
            tokens, shape (B, N), on the CPU; None where a family has none.
    """

    kwargs: dict[str, Any]
    kept_positions: list[Tensor]
    lengths: list[int]
    next_positions: Tensor
    newlines: Tensor | None = None


def shorten(
    inputs: Mapping[str, Any],
    visual: Sequence[Tensor],
    kept: Sequence[Tensor],
    *,
    image_token_id: int,
    pad_token_id: int,
    positions: str = "keep",
    padding_side: str = "left",
    features: Sequence[Tensor | None] | None = None,
) -> Prepared:
    """Remove the placeholders of dropped tokens and re-pad.

    Args:
        inputs: ``input_ids`` (B, S), and where present ``attention_mask``, ``position_ids``,
            ``labels`` and token types of that shape.
        visual: Visual tokens of each image of the batch, shape (T_i, d), in order.
        kept: Sorted unique indices of each image's kept tokens, shape (k_i,).
        image_token_id: Id of the placeholder.
        pad_token_id: Id that fills padding.
        positions: ``keep`` original position ids, or ``compact``.
        padding_side: Where rows are padded to the longest.
        features: Features (k_i, d) that replace those of an image's kept tokens.

    Returns:
        Fresh inputs; nothing in them is shared with ``inputs`` or ``visual``.

    Raises:
        ResPruneError: Placeholders and images do not match, indices are out of range, not sorted
            or not unique, or an option is unknown.
    """
    _check_option(positions, POSITIONS, "positions")
    _check_option(padding_side, PADDING_SIDES, "padding_side")
    ids: Tensor = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    present = torch.ones_like(ids, dtype=torch.bool) if mask is None else _mask_2d(mask, ids)
    original = _original_positions(inputs.get("position_ids"), present)

    alive = _alive(ids.cpu(), [len(tokens) for tokens in visual], kept, image_token_id)
    columns = [row.nonzero()[:, 0] for row in alive & present.cpu()]
    lengths = [len(row) for row in columns]
    layout = _Layout(columns, padding_side, ids.device)

    kwargs: dict[str, Any] = {
        "input_ids": layout.gather(ids, pad_token_id),
        "attention_mask": layout.mask.to(torch.long if mask is None else mask.dtype),
    }
    if positions == "keep":
        kwargs["position_ids"] = layout.gather(original, 0)
    else:
        kwargs["position_ids"] = _ranks(layout.mask)
    for name, fill in _FOLLOWERS.items():
        value = inputs.get(name)
        if value is not None:
            kwargs[name] = layout.gather(value, fill)
    if visual:
        replaced = features if features is not None else [None] * len(visual)
        pooled: Any = [
            tokens.index_select(0, keep.to(tokens.device)) if new is None else _sized(new, keep)
            for tokens, keep, new in zip(visual, kept, replaced, strict=True)
        ]
        kwargs["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=pooled)}
    following = kwargs["position_ids"].amax(dim=1).cpu() + 1
    return Prepared(kwargs, columns, lengths, following)


def image_rows(input_ids: Tensor, lengths: Sequence[int], image_token_id: int) -> list[int]:
    """Find the row of each image.

    Args:
        input_ids: Shape (B, S), placeholders expanded.
        lengths: Visual tokens T_i of each image of the batch, in order.
        image_token_id: Id of the placeholder.

    Returns:
        One row an image, never falling.

    Raises:
        ResPruneError: Placeholders and images do not match.
    """
    rows = (input_ids.cpu() == image_token_id).nonzero()[:, 0]
    if len(rows) != sum(lengths):
        raise ResPruneError(
            f"input_ids hold {len(rows)} image placeholders and the {len(lengths)} images "
            f"{sum(lengths)} visual tokens; pass the images that the text names, in order, through "
            "the model's own processor (an image token that was not expanded means an old "
            "processor config: it needs patch_size and vision_feature_select_strategy)"
        )
    found: list[int] = []
    offset = 0
    for image, length in enumerate(lengths):
        first, last = int(rows[offset]), int(rows[offset + length - 1])
        if first != last:
            raise ResPruneError(
                f"image {image} begins in row {first} of input_ids and ends in row {last}; each "
                "image must lie in one row"
            )
        found.append(first)
        offset += length
    return found


class _Layout:
    """Ragged rows of column indices -> one padded (B, N) gather."""

    def __init__(self, columns: Sequence[Tensor], side: str, device: torch.device) -> None:
        width = max((len(row) for row in columns), default=0)
        index = torch.zeros((len(columns), width), dtype=torch.long)
        mask = torch.zeros((len(columns), width), dtype=torch.bool)
        for row, chosen in enumerate(columns):
            span = slice(width - len(chosen), None) if side == "left" else slice(len(chosen))
            index[row, span] = chosen
            mask[row, span] = True
        self.index = index.to(device)
        self.mask = mask.to(device)

    def gather(self, values: Tensor, fill: int) -> Tensor:
        taken = values.to(self.index.device).gather(1, self.index)
        return taken.masked_fill(~self.mask, fill)


def _alive(
    ids: Tensor, lengths: Sequence[int], kept: Sequence[Tensor], image_token_id: int
) -> Tensor:
    """Mark the columns that stay: all text, and the placeholders of kept tokens. (B, S) bool."""
    if len(kept) != len(lengths):
        raise ResPruneError(
            f"kept has {len(kept)} entries for {len(lengths)} images; give one each"
        )
    image_rows(ids, lengths, image_token_id)
    placeholder = ids == image_token_id
    stays = torch.zeros(sum(lengths), dtype=torch.bool)
    offset = 0
    for image, (length, keep) in enumerate(zip(lengths, kept, strict=True)):
        stays[offset + _checked(keep, length, image)] = True
        offset += length
    alive = ~placeholder
    alive[placeholder] = stays
    return alive


def _checked(keep: Tensor, length: int, image: int) -> Tensor:
    indices = keep.detach().cpu()
    if indices.ndim != 1 or indices.dtype != torch.long:
        raise ResPruneError(
            f"kept indices of image {image} have shape {tuple(indices.shape)} and dtype "
            f"{indices.dtype}; give a 1-D int64 tensor"
        )
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= length):
        raise ResPruneError(
            f"kept indices of image {image} reach from {int(indices.min())} to "
            f"{int(indices.max())}; it has {length} visual tokens"
        )
    if bool((indices.diff() <= 0).any()):
        raise ResPruneError(f"kept indices of image {image} are not sorted and unique; sort them")
    return indices


def _sized(features: Tensor, keep: Tensor) -> Tensor:
    if features.shape[0] != keep.shape[0]:
        raise ResPruneError(
            f"features have {features.shape[0]} rows for {keep.shape[0]} kept tokens"
        )
    return features.clone()


def _mask_2d(mask: Tensor, ids: Tensor) -> Tensor:
    if mask.shape != ids.shape:
        raise ResPruneError(
            f"attention_mask has shape {tuple(mask.shape)} and input_ids {tuple(ids.shape)}; "
            "pass the 2-D mask of the prompt"
        )
    return mask.to(torch.bool).to(ids.device)


def _original_positions(given: Tensor | None, present: Tensor) -> Tensor:
    """Positions before pruning, (B, S): the caller's own, else a count of present tokens."""
    if given is None:
        return _ranks(present)
    if given.ndim != 2 or given.shape[-1] != present.shape[-1]:
        raise ResPruneError(
            f"position_ids have shape {tuple(given.shape)}; give (batch, {present.shape[-1]}) or "
            "leave them out"
        )
    return given.expand(present.shape)


def _ranks(mask: Tensor) -> Tensor:
    return (mask.long().cumsum(dim=1) - 1).clamp_min(0) * mask


def _check_option(value: str, allowed: tuple[str, ...], what: str) -> None:
    if value not in allowed:
        raise ResPruneError(f"unknown {what} {value!r}. {near_names(str(value), allowed)}")
