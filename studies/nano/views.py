"""How LLaVA-NeXT looks at a wide scene: a squeezed view of all of it, then two tiles.

A view is 112 x 112 pixels and 196 tokens. The placeholders of an image are the base view's 196,
then the rows of the canvas that the tiles form, each row ended by a newline token. Objects have
their usual size in the tiles, which also show the digits; in the base view they are squeezed to
half their width or height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from studies.nano.data import LABELS, Drawn, SceneArrays, patch_targets, prepare_arrays
from studies.nano.loop import Run
from studies.nano.scenes import (
    GRID,
    IMAGE_SIZE,
    LANDSCAPE,
    PATCHES,
    PORTRAIT,
    Canvas,
    Scene,
    generate_wide_scene,
)
from studies.nano.splits import Split, scene_seed

_T = TypeVar("_T", np.uint8, np.int8)
VIEWS = 3
TOKENS = VIEWS * PATCHES
PINPOINTS = [[canvas.size[1], canvas.size[0]] for canvas in (PORTRAIT, LANDSCAPE)]
"""Height and width of the canvases, as LLaVA-NeXT's config wants them."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of one image of a canvas come from and go.

    Attributes:
        source: (588,) for each visual token in its order in the prompt, its place among the tokens
            of the views one after another.
        place: (588,) its place among the image's placeholders.
        newlines: (n,) the placeholders that are newline tokens.
    """

    source: torch.Tensor
    place: torch.Tensor
    newlines: torch.Tensor

    @property
    def placeholders(self) -> int:
        """How many placeholders there are."""
        return len(self.place) + len(self.newlines)


@lru_cache(maxsize=2)
def layout_of(canvas: Canvas) -> Layout:
    """Return the layout of a wide canvas."""
    rows, columns = canvas.grid
    row = torch.arange(rows)[:, None].expand(rows, columns)
    column = torch.arange(columns).expand(rows, columns)
    tile = row // GRID * canvas.across + column // GRID
    source = (1 + tile) * PATCHES + row % GRID * GRID + column % GRID
    place = PATCHES + row * (columns + 1) + column
    base = torch.arange(PATCHES)
    return Layout(
        source=torch.cat([base, source.reshape(-1)]),
        place=torch.cat([base, place.reshape(-1)]),
        newlines=PATCHES + torch.arange(1, rows + 1) * (columns + 1) - 1,
    )


@dataclass(frozen=True)
class WideScenes:
    """Wide scenes, and their views as pictures of their own: view v of scene i is 3 i + v."""

    views: SceneArrays
    scenes: Sequence[Scene]

    def __len__(self) -> int:
        return len(self.scenes)

    def targets(self, index: Sequence[int]) -> torch.Tensor:
        """Labels (B, 588, 5) of the visual tokens in their order in the prompt."""
        places = [VIEWS * i + v for i in index for v in range(VIEWS)]
        by_view = self.views.targets(places).reshape(len(index), TOKENS, len(LABELS))
        return torch.stack(
            [
                labels[layout_of(self.scenes[i].canvas).source]
                for i, labels in zip(index, by_view, strict=True)
            ]
        )


def prepare_wide_scenes(run: Run, split: Split, count: int) -> WideScenes:
    """Draw the first wide scenes of a split and cut them into views, unless they are on disk."""
    scenes = [generate_wide_scene(scene_seed(split, i)) for i in range(count)]
    shapes = (VIEWS, IMAGE_SIZE, IMAGE_SIZE, 3), (VIEWS, PATCHES, len(LABELS))
    pixels, labels = prepare_arrays(run, split, scenes, shapes, _draw)
    views = SceneArrays(
        pixels.reshape(-1, *shapes[0][1:]),
        labels.reshape(-1, *shapes[1][1:]),
        [scene.objects for scene in scenes for _ in range(VIEWS)],
    )
    return WideScenes(views, scenes)


def cut_views(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Cut a wide picture into its views (3, 112, 112, 3), as LLaVA-NeXT's processor does."""
    base = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.stack([np.asarray(base), *_tiles(np.asarray(image), IMAGE_SIZE)])


def view_targets(scene: Scene) -> npt.NDArray[np.int8]:
    """Return the labels (3, 196, 5) of a wide scene's views.

    The base view names shapes and colours, but no digit, and marks no centre: its digits cannot be
    read, and an object that were marked twice would be counted twice.
    """
    rows, columns = scene.canvas.grid
    tiles = _tiles(patch_targets(scene).reshape(rows, columns, len(LABELS)), GRID)
    names, owners = scene.labels(GRID, GRID)
    base = np.zeros((PATCHES, len(LABELS)), np.int8)
    base[:, :2], base[:, 2], base[:, 3] = names[:, :2], -1, owners
    return np.stack([base, *(tile.reshape(PATCHES, len(LABELS)) for tile in tiles)])


def place_tokens(
    tokens: torch.Tensor, newline: torch.Tensor, canvases: Sequence[Canvas], kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Place kept visual tokens in the prompt, with the newline tokens if all are kept.

    Args:
        tokens: (B, k, d) kept visual tokens.
        newline: (d,) the newline token.
        canvases: of the B images; the same for all if all tokens are kept.
        kept: (B, k) which visual tokens they are, in their order in the prompt, ascending.

    Returns:
        Tokens (B, n, d), their placeholders (B, n), and how many placeholders there are (B,).
    """
    layouts = [layout_of(canvas) for canvas in canvases]
    places = torch.stack([layout.place for layout in layouts]).gather(1, kept)
    if kept.shape[1] == TOKENS:
        newlines = torch.stack([layout.newlines for layout in layouts])
        places, order = torch.cat([places, newlines], 1).sort(1)
        tokens = torch.cat([tokens, newline.expand(*newlines.shape, -1)], 1)
        tokens = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[-1]))
    return tokens, places, torch.tensor([layout.placeholders for layout in layouts])


def _tiles(canvas: npt.NDArray[_T], side: int) -> list[npt.NDArray[_T]]:
    height, width = canvas.shape[:2]
    corners = [(y, x) for y in range(0, height, side) for x in range(0, width, side)]
    return [canvas[y : y + side, x : x + side] for y, x in corners]


def _draw(scene: Scene) -> Drawn:
    return cut_views(scene.image), view_targets(scene)
