"""Images that come as several views, found again in the ids as runs of placeholders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resprune.backbones._boxes import even_boxes
from resprune.errors import ResPruneError
from resprune.prepare import Prepared

_LABEL_TOKENS = 24  # of the text before an image, enough for a frame's label


@dataclass(frozen=True)
class Run:
    """Consecutive placeholders.

    Attributes:
        row: Row of the batch.
        start: Column of the first one.
        length: How many there are.
    """

    row: int
    start: int
    length: int


def placeholder_runs(input_ids: Tensor, image_token_id: int) -> list[Run]:
    """Find the runs of placeholders, row by row.

    Args:
        input_ids: Shape (B, S).
        image_token_id: Id of the placeholder.

    Returns:
        The runs in order.
    """
    image = (input_ids.cpu() == image_token_id).long()
    edges = torch.nn.functional.pad(image, (1, 1)).diff(dim=1)
    starts, stops = (edges == 1).nonzero().tolist(), (edges == -1).nonzero().tolist()
    return [
        Run(row, start, stop - start) for (row, start), (_, stop) in zip(starts, stops, strict=True)
    ]


def shows_frames(
    inputs: Mapping[str, Any], image_token_id: int, tokenizer: Any, label: re.Pattern[str]
) -> bool:
    """Say whether images are the frames of a video, which such processors label in the text.

    Args:
        inputs: The processor's output.
        image_token_id: Id of the placeholder.
        tokenizer: The processor's tokenizer.
        label: What ends the text before a frame's placeholders.

    Returns:
        True when one is.
    """
    ids = inputs.get("input_ids")
    if ids is None or inputs.get("pixel_values") is None:
        return False
    ids = ids.cpu()
    return any(
        label.search(tokenizer.decode(ids[run.row, max(0, run.start - _LABEL_TOKENS) : run.start]))
        for run in placeholder_runs(ids, image_token_id)
    )


def tiled_boxes(original: tuple[int, int], tiles: tuple[int, int], side: int) -> Tensor:
    """Boxes of an image that was stretched, cut into tiles and then shown whole.

    Args:
        original: Height and width of the original image, in pixels.
        tiles: Rows and columns of tiles; (0, 0) for the whole view alone.
        side: Tokens along each edge of a view.

    Returns:
        x0, y0, x1, y1 in original pixels: the tiles in raster order, each in raster order, and the
        whole view last; shape ((rows * columns + 1) * side^2, 4), float32.
    """
    whole = even_boxes(original, (side, side))
    rows, columns = tiles
    if not rows * columns:
        return whole
    cells = even_boxes(original, (rows * side, columns * side))
    by_tile = cells.view(rows, side, columns, side, 4).transpose(1, 2).reshape(-1, 4)
    return torch.cat([by_tile, whole])


def view_places(views: int, side: int) -> Tensor:
    """Tile, row and column of each token of an image's views: (views * side^2, 3), int64."""
    lines = torch.arange(side)
    return torch.cartesian_prod(torch.arange(views), lines, lines)


def check_boxes(original: tuple[int, int], tiles: tuple[int, int], views: int) -> None:
    """Check that the processor's settings explain the views that an image has.

    Raises:
        ResPruneError: They do not: the size is wrong, or a setting was given per call.
    """
    expected = tiles[0] * tiles[1] + 1
    if expected != views:
        raise ResPruneError(
            f"an image of size {original} takes {expected} views under the processor's settings "
            f"and has {views} here; give its (height, width), or leave image_sizes out where the "
            "processor was called with settings of its own"
        )


def pack_features(prepared: Prepared) -> Prepared:
    """Hand kept features to a model that takes a tensor (n, t, d) and not a list.

    One token an entry, (k_1 + k_2 + ..., 1, d): so images may keep different counts, and beam
    search, which repeats entries row by row, finds the rows' bounds between any two tokens.

    Args:
        prepared: Model inputs with a list of features; changed.

    Returns:
        The same.
    """
    outputs = prepared.kwargs.get("mm_encoder_outputs")
    if outputs is not None:
        outputs["image"].pooler_output = torch.cat(list(outputs["image"].pooler_output))[:, None]
    return prepared


def split_counts(lengths: Sequence[int], rows: Tensor) -> tuple[Tensor, ...]:
    """Cut features (sum, d) into images.

    Args:
        lengths: Tokens of each image.
        rows: Features of all of them.

    Returns:
        One tensor an image.

    Raises:
        ResPruneError: They do not add up.
    """
    if sum(lengths) != len(rows):
        raise ResPruneError(
            f"input_ids hold {sum(lengths)} image placeholders and the views of pixel_values give "
            f"{len(rows)} visual tokens; pass the processor's output as it is"
        )
    parts: tuple[Tensor, ...] = torch.split(rows, list(lengths))
    return parts
