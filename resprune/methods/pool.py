"""Average pooling over cells of the image: the plainest way to merge tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resprune.errors import ResPruneError
from resprune.methods.base import Inputs, Method, Selection, budget_of, register
from resprune.options import Options


class PoolOptions(Options):
    """It has none."""


@register
class Pool(Method[PoolOptions]):
    """Cut each tile into cells, ``k`` in all, and keep the mean of each.

    Tiles get cells in proportion to their tokens. Of each cell the token nearest its centre is
    kept, and its feature replaced by the mean of the cell's.
    """

    name = "pool"
    options = PoolOptions

    def select(self, image: Inputs, k: int, options: PoolOptions) -> Selection:
        """Pool the tokens.

        Raises:
            ResPruneError: No ``places``, or not one a token.
        """
        count = budget_of(image, k)
        tokens, places = image.tokens, image.places
        if places is None or places.shape != (len(tokens), 3):
            given = "none" if places is None else f"of shape {tuple(places.shape)}"
            raise ResPruneError(
                f"method 'pool' needs the places of the image's {len(tokens)} tokens (tile, row, "
                f"column), and they are {given}; use a backbone that gives them, or 'uniform'"
            )
        cell, off = cells_of(places.cpu(), count)
        # by cell, in it by distance from the centre, ties to the lowest index
        order = off.argsort(stable=True)
        order = order[cell[order].argsort(stable=True)]
        order = order[cell[order] >= 0]
        lengths = cell[order].bincount(minlength=count)
        kept = order[lengths.cumsum(0) - lengths].to(tokens.device)
        members = tokens[order.to(tokens.device)]
        values = members if members.dtype == torch.float64 else members.float()
        means = torch.segment_reduce(values, "mean", lengths=lengths.to(tokens.device), axis=0)
        return Selection(kept, means.to(tokens.dtype))


def cells_of(places: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cut an image into ``k`` non-empty cells.

    Args:
        places: Tile, row and column of each token, shape (T, 3), on the CPU.
        k: Count of cells, at most T.

    Returns:
        The cell of each token, -1 in a tile that gets none, shape (T,); and its squared distance
        from the cell's centre, in half cells of the grid, shape (T,). Whole numbers, int64.
    """
    tile = places[:, 0]
    cell, off = torch.full_like(tile, -1), torch.zeros_like(tile)
    names, sizes = torch.unique(tile, return_counts=True)
    first = 0
    for name, count in zip(names.tolist(), _shares(sizes.tolist(), k), strict=True):
        if count:
            members = (tile == name).nonzero()[:, 0]
            own, off[members] = _grid_cells(*_grid(places[members, 1:]), count)
            cell[members] = first + own
            first += count
    return cell, off


def _shares(sizes: list[int], k: int) -> list[int]:
    """Deal ``k`` in proportion to sizes by the largest remainder, ties to the first."""
    total = sum(sizes)
    shares = [k * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(k * sizes[i] % total))
    for i in by_remainder[: k - sum(shares)]:
        shares[i] += 1
    return shares


def _grid(places: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """Count the rows and columns of one tile's tokens, places (n, 2): row, column, H, W.

    They are counted, not measured: a view thinned to every other row has no gaps. A tile with
    holes becomes one row in raster order.
    """
    rows, row = torch.unique(places[:, 0], return_inverse=True)
    columns, column = torch.unique(places[:, 1], return_inverse=True)
    raster = row * len(columns) + column
    if len(torch.unique(raster)) == len(places) == len(rows) * len(columns):
        return row, column, len(rows), len(columns)
    return torch.zeros_like(row), raster.argsort(stable=True).argsort(), 1, len(places)


def _grid_cells(
    row: Tensor, column: Tensor, height: int, width: int, k: int
) -> tuple[Tensor, Tensor]:
    """Cut a full grid into ``k`` cells: bands of rows, each band into stretches of columns."""
    bands = max(-(-k // width), min(round(math.sqrt(k * height / width)), height, k))
    band, middle = _stretch(row, height, bands)
    first, last = k * band // bands, k * (band + 1) // bands
    place, centre = _stretch(column, width, last - first)
    return first + place, (2 * row - middle) ** 2 + (2 * column - centre) ** 2


def _stretch(at: Tensor, length: int, parts: int | Tensor) -> tuple[Tensor, Tensor]:
    """Cut ``range(length)`` at ``length * i // parts``: the stretch of ``at``, twice its middle."""
    part = ((at + 1) * parts - 1) // length
    return part, length * part // parts + length * (part + 1) // parts - 1
