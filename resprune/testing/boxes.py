"""Checking boxes against where the processor took the pixels from."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resprune.backbones import VisualTokens


def ramp_image(height: int, width: int) -> Image.Image:
    """Make an image whose red grows from left to right and whose green grows downwards.

    What a processor makes of it shows which part of the image a pixel came from.

    Args:
        height: Height in pixels.
        width: Width in pixels.

    Returns:
        The image.
    """
    y, x = np.mgrid[0:height, 0:width]
    ramps = np.stack([255 * (x + 0.5) / width, 255 * (y + 0.5) / height, 0 * x], axis=-1)
    return Image.fromarray(ramps.round().astype(np.uint8))


def cell_means(views: Tensor, cell: int) -> Tensor:
    """Average the red and green of each cell of processed views of ``ramp_image``.

    Args:
        views: Not normalised, shape (n, 3, height, width).
        cell: Edge of a cell in pixels.

    Returns:
        Fractions (x, y) of the image, shape (n, cells, 2).
    """
    cells = views[:, :2].unfold(2, cell, cell).unfold(3, cell, cell).mean(dim=(-1, -2))
    return cells.flatten(2).transpose(1, 2)


def assert_boxes_lie_where_seen(
    visual: VisualTokens, seen: Tensor, size: tuple[int, int], *, within: float = 0.25
) -> None:
    """Compare the centres of boxes with where the processor took the pixels from.

    Boxes over padding are left out: what was seen there is black.

    Args:
        visual: With boxes.
        seen: Fractions (x, y) of the image that each token saw, shape (T, 2).
        size: Height and width of the image.
        within: Largest distance, in edges of a token's box; resampling blurs, and bytes round.
    """
    assert visual.boxes is not None
    assert seen.shape == (len(visual.tokens), 2)
    height, width = size
    x0, y0, x1, y1 = visual.boxes.unbind(1)
    inside = (x0 > -1e-3) & (y0 > -1e-3) & (x1 < width + 1e-3) & (y1 < height + 1e-3)
    assert float(inside.float().mean()) > 0.5
    centres = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2], dim=1)
    edges = torch.stack([x1 - x0, y1 - y0], dim=1)
    away = (seen * torch.tensor([width, height]) - centres).abs() / edges
    assert float(away[inside].max()) <= within
