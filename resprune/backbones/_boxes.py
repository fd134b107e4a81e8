"""Where visual tokens lie in the original image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def view_boxes(
    original: tuple[int, int],
    view: tuple[int, int],
    grid: tuple[int, int],
    image_processor: Any,
) -> Tensor:
    """Map the cells of one processed view back to the original image.

    Follows what CLIP's and SigLIP's processors do: resize (shortest edge, or to a height and
    width), then centre crop, which pads an image that is smaller than the crop.

    Args:
        original: Height and width of the original image, in pixels.
        view: Height and width of the pixel values.
        grid: Rows and columns of tokens.
        image_processor: The processor's image part.

    Returns:
        x0, y0, x1, y1 in original pixels, shape (rows * columns, 4), float32, raster order. Boxes
        over padding lie outside the image.
    """
    resized = _resized(original, image_processor)
    top, left = ((size - shown) // 2 for size, shown in zip(resized, view, strict=True))
    rows, columns = grid
    ys = (torch.arange(rows + 1) * (view[0] / rows) + top) * (original[0] / resized[0])
    xs = (torch.arange(columns + 1) * (view[1] / columns) + left) * (original[1] / resized[1])
    return _cells(ys, xs)


def even_boxes(original: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Divide an image that was resized whole, whatever its aspect ratio.

    Args:
        original: Height and width of the original image, in pixels.
        grid: Rows and columns of tokens.

    Returns:
        x0, y0, x1, y1 in original pixels, shape (rows * columns, 4), float32, raster order.
    """
    rows, columns = grid
    return _cells(
        torch.arange(rows + 1) * (original[0] / rows),
        torch.arange(columns + 1) * (original[1] / columns),
    )


def _cells(ys: Tensor, xs: Tensor) -> Tensor:
    """Boxes between grid lines, in raster order."""
    y0, x0 = torch.meshgrid(ys[:-1], xs[:-1], indexing="ij")
    y1, x1 = torch.meshgrid(ys[1:], xs[1:], indexing="ij")
    return torch.stack([x0, y0, x1, y1], dim=-1).reshape(-1, 4).float()


def _resized(original: tuple[int, int], image_processor: Any) -> tuple[int, int]:
    """Height and width after the processor's resize step."""
    size = image_processor.size
    if not getattr(image_processor, "do_resize", True) or not size:
        return original
    shortest = _entry(size, "shortest_edge")
    if shortest is None:
        height, width = _entry(size, "height"), _entry(size, "width")
        return original if height is None or width is None else (height, width)
    short, long = min(original), max(original)
    scaled = int(shortest * long / short)
    return (scaled, shortest) if original[1] <= original[0] else (shortest, scaled)


def _entry(size: Any, name: str) -> int | None:
    value = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
    return None if value is None else int(value)
