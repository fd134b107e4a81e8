"""Position ids of shortened sequences under M-RoPE (time, height and width). Pure tensors.

A text token has the same position on every axis. The tokens of an image share their time and count
height and width from where the text before them ended; the text after goes on at the largest
position so far plus one (Qwen2-VL, arXiv 2409.12191).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resprune.errors import ResPruneError


@dataclass(frozen=True)
class MropePositions:
    """Positions of a shortened batch.

    Attributes:
        position_ids: Rows text, time, height, width; shape (4, B, N), int64. The text row counts
            the present tokens without a gap, so that no attention kernel takes the gaps of the
            other rows for packed sequences.
        next_positions: Position of the token after each row, shape (B,), int64.
    """

    position_ids: Tensor
    next_positions: Tensor


def shortened_positions(
    original: Tensor,
    present: Tensor,
    columns: Sequence[Tensor],
    images: Sequence[Tensor],
    mask: Tensor,
    *,
    compact: bool,
) -> MropePositions:
    """Gather or compact the positions of what was kept.

    Args:
        original: Positions before pruning (time, height, width), shape (3, B, S), on the CPU.
        present: What is no padding, shape (B, S), bool, on the CPU.
        columns: Kept columns of each row, (n_b,) each, on the CPU.
        images: The image of each kept column, -1 for text; (n_b,) each.
        mask: What is no padding in the shortened batch, shape (B, N), bool.
        compact: Close the gaps; else keep the original positions.

    Returns:
        The positions, on the mask's device.
    """
    placed = torch.zeros((4, *mask.shape), dtype=torch.long)
    following = torch.zeros(len(columns), dtype=torch.long)
    filled = mask.cpu()
    for row, (kept, image) in enumerate(zip(columns, images, strict=True)):
        positions = original[:, row, kept]
        if compact:
            positions, following[row] = compacted(positions, image)
        elif bool(present[row].any()):
            # what was dropped counts too: text after the prompt goes on where it would have
            following[row] = original[:, row, present[row]].max() + 1
        placed[0, row, filled[row]] = torch.arange(len(kept))
        placed[1:, row, filled[row]] = positions
    return MropePositions(placed.to(mask.device), following)


def compacted(positions: Tensor, images: Tensor) -> tuple[Tensor, int]:
    """Close the gaps of one row.

    Inside each image every axis is replaced by its dense rank; text counts on from the largest
    position so far plus one. Nothing changes where nothing was dropped.

    Args:
        positions: Original positions of the kept tokens, shape (3, n).
        images: Their image, -1 for text, shape (n,).

    Returns:
        New positions (3, n), and the position after them.
    """
    new = torch.empty_like(positions)
    owners, lengths = torch.unique_consecutive(images, return_counts=True)
    following, start = 0, 0
    for owner, length in zip(owners.tolist(), lengths.tolist(), strict=True):
        stop = start + length
        if owner < 0:
            part = torch.arange(length).expand(3, -1)
        else:
            part = torch.stack(
                [axis.unique(return_inverse=True)[1] for axis in positions[:, start:stop]]
            )
        new[:, start:stop] = part + following
        following = int(new[:, start:stop].max()) + 1
        start = stop
    return new, following


def image_of_columns(
    ids: Tensor, lengths: Sequence[int], image_token_id: int, columns: Sequence[Tensor]
) -> list[Tensor]:
    """Say to which image of the batch each kept column belongs.

    Args:
        ids: Original ids, shape (B, S), on the CPU.
        lengths: Visual tokens T_i of each image.
        image_token_id: Id of the placeholder.
        columns: Kept columns of each row, (n_b,) each.

    Returns:
        The image, -1 for text; (n_b,) each.
    """
    owner = torch.full(ids.shape, -1)
    counts = torch.tensor(list(lengths), dtype=torch.long)
    owner[ids == image_token_id] = torch.arange(len(lengths)).repeat_interleave(counts)
    return [owner[row, kept] for row, kept in enumerate(columns)]


def given_positions(given: Tensor, present: Tensor) -> Tensor:
    """Bring a caller's positions into the shape (3, B, S), on the CPU.

    Args:
        given: Shape (B, S), (3, B, S), or (4, B, S) with a text row first.
        present: Shape (B, S).

    Returns:
        Time, height and width.

    Raises:
        ResPruneError: Another shape.
    """
    rows, length = present.shape
    if given.ndim == 2 and given.shape[-1] == length and given.shape[0] in (1, rows):
        return given.cpu().expand(3, rows, length)
    if given.ndim == 3 and given.shape[0] in (3, 4) and given.shape[1:] == present.shape:
        return given.cpu()[-3:]
    raise ResPruneError(
        f"position_ids have shape {tuple(given.shape)}; give (3, {rows}, {length}) for time, "
        "height and width, or leave them out"
    )
