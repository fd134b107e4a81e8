"""Where the placeholders of an image of several views lie: base view, tiles, newline tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

NEWLINE = -1.0
"""Stands for a newline token where coordinates or scores are packed, which are never negative."""


class Pack(Protocol):
    """A model's own packing of views into the placeholders of an image."""

    def __call__(
        self, views: Sequence[Tensor], sizes: Tensor, newline: Tensor, *, whole: bool = False
    ) -> list[Tensor]:
        """Pack the views of each image; ``whole`` leaves out what makes the canvas coarser."""


@dataclass(frozen=True)
class Layout:
    """How the placeholders of one image are laid out.

    Attributes:
        newline: Which placeholders are newline tokens, shape (P,), bool.
        centres: Centre (y, x) of each other placeholder, in cells: of the base view for the first
            ``base`` ones, of the canvas that all tiles form for the rest; shape (T, 2), float32.
        base: Tokens of the base view.
        tiles: Rows and columns of tiles; (0, 0) for the base view alone.
        extent: Height and width of one token on the canvas, in cells.
    """

    newline: Tensor
    centres: Tensor
    base: int
    tiles: tuple[int, int]
    extent: tuple[float, float]


def tile_grid(size: Tensor, config: Any) -> tuple[int, int]:
    """Return the rows and columns of tiles that a model cuts an image into.

    Args:
        size: Height and width of the original image, shape (2,).
        config: The model's config.

    Returns:
        Rows and columns.
    """
    from transformers.image_processing_utils import select_best_resolution

    edge = int(config.vision_config.image_size)
    height, width = select_best_resolution(tuple(size.tolist()), config.image_grid_pinpoints)
    return int(height) // edge, int(width) // edge


def layout_of(pack: Pack, size: Tensor, side: int, tiles: tuple[int, int]) -> Layout:
    """Find the layout of one image, by packing the coordinates of its cells.

    Args:
        pack: The model's own packing.
        size: Height and width of the original image, shape (2,).
        side: Cells along each edge of a view.
        tiles: Rows and columns of tiles; (0, 0) for the base view alone.

    Returns:
        The layout.
    """
    lines = torch.arange(side) + 0.5
    cell = torch.stack(torch.meshgrid(lines, lines, indexing="ij"), dim=-1).view(-1, 2)
    ending = torch.full((2,), NEWLINE)
    if tiles == (0, 0):
        packed = pack([cell[None]], size[None], ending)[0]
        newline = packed[:, 0] == NEWLINE
        return Layout(newline, packed[~newline], side**2, (0, 0), (1.0, 1.0))
    corners = torch.cartesian_prod(torch.arange(tiles[0]), torch.arange(tiles[1])) * side
    canvas = torch.cat([cell[None], cell[None] + corners[:, None]])
    packed = pack([canvas], size[None], ending)[0]
    newline = packed[:, 0] == NEWLINE
    centres = packed[~newline]
    rows = int(newline.sum())
    columns = (len(centres) - side**2) // max(rows, 1)
    region = pack([canvas], size[None], ending, whole=True)[0][side**2 :]
    region = region[region[:, 0] != NEWLINE]
    if not len(region):  # an image so long and thin that unpadding leaves nothing of it
        return Layout(newline, centres, side**2, tiles, (1.0, 1.0))
    height, width = (region.amax(dim=0) - region.amin(dim=0) + 1).tolist()
    return Layout(newline, centres, side**2, tiles, (height / rows, width / columns))


def places_of(layout: Layout, side: int) -> Tensor:
    """Return the tile, row and column of each visual token, shape (T, 3), int64."""
    cell = layout.centres.floor().long()
    base, rest = cell[: layout.base], cell[layout.base :]
    tile = 1 + (rest[:, 0] // side) * layout.tiles[1] + rest[:, 1] // side
    return torch.cat(
        [
            torch.cat([torch.zeros_like(base[:, :1]), base], dim=1),
            torch.cat([tile[:, None], rest % side], dim=1),
        ]
    )
