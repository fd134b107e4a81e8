"""Procedural scenes: what the embedded models look at, with the ground truth kept.

A scene is 112 x 112 pixels, which the vision tower cuts into 14 x 14 patches of 8 pixels. It holds
4 to 12 objects (8 shapes x 8 colours, about 3 x 3 patches each, centred on a patch within 1.2
pixels; 60 % carry a digit tag) over a textured background with 14 to 34 pieces of clutter, a third
of them in the objects' own colours.

A wide scene is twice as wide or twice as high, with the same objects and twice the clutter; no
object lies across the middle.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

IMAGE_SIZE = 112
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE
PATCHES = GRID * GRID

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
PLURALS = {s: s + ("es" if s == "cross" else "s") for s in SHAPES}
COLORS = {
    "red": (215, 30, 35),
    "green": (30, 160, 50),
    "blue": (40, 70, 220),
    "yellow": (240, 220, 40),
    "purple": (135, 40, 165),
    "orange": (245, 135, 20),
    "pink": (250, 150, 195),
    "cyan": (60, 210, 220),
}
COLOR_NAMES = tuple(COLORS)
MIN_OBJECTS, MAX_OBJECTS = 4, 12

BACKGROUND, MIXED = -1, -2
"""Patch labels: no object at all; an object's edge that covers less than a quarter of the patch."""

Rgb = tuple[int, int, int]
Point = tuple[float, float]
_Mask = npt.NDArray[np.uint8]
_Labels = npt.NDArray[np.int8]

_CLUTTER_COLORS: tuple[Rgb, ...] = (
    (120, 80, 40),
    (235, 235, 235),
    (15, 15, 15),
    (128, 128, 40),
    (20, 110, 110),
    (90, 90, 100),
    (250, 220, 170),
    (100, 20, 40),
    (20, 20, 80),
)
# 3 x 5 bitmaps of the digits 0 to 9, row by row.
_DIGITS = (
    "111101101101111",
    "010110010010111",
    "111001111100111",
    "111001111001111",
    "101101111001001",
    "111100111001111",
    "111100111101111",
    "111001001010010",
    "111101111101111",
    "111101111001111",
)


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is and the patch (column, row) of its centre."""

    shape: str
    color: str
    digit: int | None
    column: int
    row: int


@dataclass(frozen=True)
class Canvas:
    """Size of a picture in squares of 112 x 112 pixels (14 x 14 patches)."""

    across: int = 1
    down: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.across * IMAGE_SIZE, self.down * IMAGE_SIZE

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.down * GRID, self.across * GRID


SQUARE, LANDSCAPE, PORTRAIT = Canvas(), Canvas(across=2), Canvas(down=2)


@dataclass(frozen=True)
class Scene:
    """A scene's ground truth; the image and the patch labels are drawn when first asked for."""

    seed: int
    objects: tuple[SceneObject, ...]
    canvas: Canvas = SQUARE

    @cached_property
    def _drawn(self) -> tuple[Image.Image, _Mask, _Mask]:
        return _draw(self.objects, self.seed, self.canvas)

    @property
    def image(self) -> Image.Image:
        """The picture: RGB, 112 x 112 pixels, or as large as the canvas."""
        return self._drawn[0]

    def labels(self, rows: int, columns: int) -> tuple[_Labels, _Labels]:
        """Return labels (n, 3) and owners (n,) as below, of n = rows x columns even cells."""
        return _label_patches(self.objects, *self._drawn[1:], (rows, columns))

    @cached_property
    def _labels(self) -> tuple[_Labels, _Labels]:
        return self.labels(*self.canvas.grid)

    @property
    def patch_labels(self) -> _Labels:
        """(196, 3) shape, colour and digit index of each patch in raster order.

        `BACKGROUND` (-1) where there is none, `MIXED` (-2) where an object covers less than a
        quarter of the patch. The digit is given where its tag covers at least half of the patch.
        """
        return self._labels[0]

    @property
    def patch_objects(self) -> _Labels:
        """(196,) index into `objects` of each patch, -1 where `patch_labels` names none."""
        return self._labels[1]


def generate_scene(seed: int) -> Scene:
    """Return the scene of a seed: the same seed gives the same objects and the same pixels."""
    return Scene(seed, sample_objects(random.Random(f"objects-{seed}")))


def wide_canvas(seed: int) -> Canvas:
    """Return the canvas of a wide scene: landscape where the seed is even, else portrait."""
    return PORTRAIT if seed % 2 else LANDSCAPE


def generate_wide_scene(seed: int) -> Scene:
    """Return the wide scene of a seed; see `generate_scene`."""
    canvas = wide_canvas(seed)
    rng = random.Random(f"objects-wide-{seed}")
    return Scene(seed, sample_objects(rng, canvas=canvas), canvas)


def sample_objects(
    rng: random.Random,
    least: int = MIN_OBJECTS,
    most: int = MAX_OBJECTS,
    canvas: Canvas = SQUARE,
) -> tuple[SceneObject, ...]:
    """Draw a layout of about `least` to `most` objects that do not overlap.

    Some shapes and colours occur exactly once (so that 'the star' has a referent), others several
    times (so that there is something to count), and at least one never (so that 'no' is possible).
    """
    count = rng.randint(least, most)
    shapes = _draw_names(rng, SHAPES, count, singles=rng.choice((2, 3, 4, 5)))
    colors = _draw_names(rng, COLOR_NAMES, count, singles=rng.choice((1, 2, 3, 4)))
    rng.shuffle(colors)
    objects: list[SceneObject] = []
    tries = 0
    for shape, color in zip(shapes, colors, strict=True):
        while tries < 600:
            tries += 1
            column, row = _draw_center(rng, canvas.across), _draw_center(rng, canvas.down)
            if all(max(abs(column - o.column), abs(row - o.row)) >= 3 for o in objects):
                break
        else:
            break
        digit = rng.randrange(10) if rng.random() < 0.6 else None
        objects.append(SceneObject(shape, color, digit, column, row))
    return tuple(objects)


def _draw_center(rng: random.Random, squares: int) -> int:
    """A patch that is not at the edge of its square, along one side of the canvas."""
    square = rng.randrange(squares) if squares > 1 else 0
    return square * GRID + rng.randint(1, GRID - 2)


def _draw_names(rng: random.Random, names: Sequence[str], count: int, singles: int) -> list[str]:
    order = rng.sample(names, len(names))
    once = order[: min(count, singles)]
    return once + [rng.choice(order[singles:-1]) for _ in range(count - len(once))]


def _rotated(
    points: Sequence[Point], x: float, y: float, radius: float, angle: float
) -> list[Point]:
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x + radius * (u * cos - v * sin), y + radius * (u * sin + v * cos)) for u, v in points]


def _outline(name: str) -> list[Point]:
    """Corner points of a polygon inside the unit circle."""
    if name == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if name == "triangle":
        return [(0, -1), (0.95, 0.8), (-0.95, 0.8)]
    if name == "star":
        radii = [1 if i % 2 == 0 else 0.45 for i in range(10)]
        turns = [i * math.pi / 5 for i in range(10)]
        return [(r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, turns, strict=True)]
    if name == "cross":
        a = 0.36
        return [
            (-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a),
            (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a),
        ]  # fmt: skip
    if name == "diamond":
        return [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)]
    if name == "heart":
        return [
            (
                16 * math.sin(a) ** 3 / 16.5,
                -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a))
                / 16.5,
            )
            for a in (2 * math.pi * i / 24 for i in range(24))
        ]
    if name == "arrow":
        return [(-1, -0.35), (0.1, -0.35), (0.1, -0.9), (1, 0), (0.1, 0.9), (0.1, 0.35), (-1, 0.35)]
    if name == "moon":
        outer = [math.radians(50 + 260 * i / 15) for i in range(16)]
        inner = [math.radians(265 - 170 * i / 11) for i in range(12)]
        return [(math.cos(a), math.sin(a)) for a in outer] + [
            (0.55 + 0.78 * math.cos(a), 0.78 * math.sin(a)) for a in inner
        ]
    raise ValueError(f"no outline is known for {name!r}")


def _background(noise: np.random.RandomState, size: tuple[int, int]) -> Image.Image:
    base = noise.randint(60, 190) + noise.randint(-18, 19, 3)
    coarse = np.clip(noise.randn(8, 8, 3) * 14 + base, 0, 255).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)
    grain = np.asarray(smooth).astype(np.float32) + noise.randn(size[1], size[0], 1) * 7
    return Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))


def _draw_clutter(draw: ImageDraw.ImageDraw, rng: random.Random, canvas: Canvas) -> None:
    area = canvas.across * canvas.down
    for _ in range(rng.randint(14 * area, 34 * area)):
        if rng.random() < 0.35:
            fill: Rgb = rng.choice(tuple(COLORS.values()))
        elif rng.random() < 0.6:
            fill = rng.choice(_CLUTTER_COLORS)
        else:
            fill = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        x, y = rng.uniform(0, canvas.size[0]), rng.uniform(0, canvas.size[1])
        kind = rng.random()
        if kind < 0.35:
            length, angle = rng.uniform(6, 26), rng.uniform(0, 2 * math.pi)
            end = (x + length * math.cos(angle), y + length * math.sin(angle))
            draw.line([(x, y), end], fill=fill, width=rng.choice((1, 2, 3)))
        elif kind < 0.55:
            r = rng.uniform(1, 3)
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        elif kind < 0.75:
            scribble = [(x + rng.uniform(-9, 9), y + rng.uniform(-9, 9)) for _ in range(5)]
            draw.line(scribble, fill=fill, width=rng.choice((1, 2)))
        elif kind < 0.9:
            # Striped swatches have much energy: what a saliency or norm ranking falls for.
            other = rng.choice(_CLUTTER_COLORS)
            width, height, step = rng.randint(6, 14), rng.randint(6, 14), rng.choice((2, 3))
            for u in range(0, width, step):
                stripe = fill if (u // step) % 2 else other
                draw.rectangle([x + u, y, x + u + step - 1, y + height], fill=stripe)
        else:
            points = _outline("arrow" if rng.random() < 0.5 else "moon")
            turned = _rotated(points, x, y, rng.uniform(5, 9), rng.uniform(0, 2 * math.pi))
            draw.polygon(turned, fill=rng.choice(_CLUTTER_COLORS))


def _draw_digit(draw: ImageDraw.ImageDraw, digit: int, left: int, top: int) -> None:
    draw.rectangle([left, top, left + 7, top + 8], fill=(250, 250, 250))
    tops, heights = (0, 2, 3, 4, 6), (1, 0, 0, 1, 0)
    for k, bit in enumerate(_DIGITS[digit]):
        if bit == "1":
            x, y = left + 1 + (k % 3) * 2, top + 1 + tops[k // 3]
            draw.rectangle([x, y, x + 1, y + heights[k // 3]], fill=(10, 10, 10))


def _draw(
    objects: Sequence[SceneObject], seed: int, canvas: Canvas
) -> tuple[Image.Image, _Mask, _Mask]:
    """The picture, and which object (from 1; 0: none) and whose digit tag each pixel shows."""
    rng = random.Random(f"render-{seed}")
    # RandomState's streams are frozen across numpy versions, unlike Generator's.
    image = _background(np.random.RandomState(rng.randrange(2**31)), canvas.size)
    draw = ImageDraw.Draw(image)
    _draw_clutter(draw, rng, canvas)
    mask, tags = (Image.new("L", canvas.size, 0) for _ in range(2))
    mask_draw, tag_draw = ImageDraw.Draw(mask), ImageDraw.Draw(tags)
    for number, o in enumerate(objects, start=1):
        radius, angle = rng.uniform(9.3, 11.2), rng.uniform(-0.12, 0.12)
        x = o.column * PATCH_SIZE + 4 + rng.uniform(-1.2, 1.2)
        y = o.row * PATCH_SIZE + 4 + rng.uniform(-1.2, 1.2)
        r, g, b = (min(255, max(0, v + rng.randint(-18, 18))) for v in COLORS[o.color])
        if o.shape in ("circle", "ring"):
            q = 0.9 * radius
            box = [x - q, y - q, x + q, y + q]
            if o.shape == "circle":
                draw.ellipse(box, fill=(r, g, b))
            else:
                draw.ellipse(box, outline=(r, g, b), width=max(3, int(0.33 * radius)))
            mask_draw.ellipse(box, fill=number)
        else:
            corners = _rotated(_outline(o.shape), x, y, radius, angle)
            draw.polygon(corners, fill=(r, g, b))
            mask_draw.polygon(corners, fill=number)
        if o.digit is not None:
            left, top = o.column * PATCH_SIZE, o.row * PATCH_SIZE - 1
            _draw_digit(draw, o.digit, left, top)
            mask_draw.rectangle([left, top, left + 7, top + 8], fill=number)
            tag_draw.rectangle([left, top, left + 7, top + 8], fill=number)
    return image, np.asarray(mask), np.asarray(tags)


def _by_patch(mask: _Mask, grid: tuple[int, int]) -> _Mask:
    (rows, columns), (height, width) = grid, mask.shape
    blocks = mask.reshape(rows, height // rows, columns, width // columns).transpose(0, 2, 1, 3)
    return blocks.reshape(rows * columns, -1)


def _label_patches(
    objects: Sequence[SceneObject], mask: _Mask, tags: _Mask, grid: tuple[int, int]
) -> tuple[_Labels, _Labels]:
    pixels, tag_pixels = _by_patch(mask, grid), _by_patch(tags, grid)
    labels = np.full((len(pixels), 3), BACKGROUND, np.int8)
    owners = np.full(len(pixels), -1, np.int8)
    for patch in np.flatnonzero((pixels > 0).any(1)):
        areas = np.bincount(pixels[patch], minlength=len(objects) + 1)[1:]
        owner = int(areas.argmax())
        if areas[owner] >= pixels.shape[1] / 4:
            labels[patch, 0] = SHAPES.index(objects[owner].shape)
            labels[patch, 1] = COLOR_NAMES.index(objects[owner].color)
            owners[patch] = owner
        else:
            labels[patch, :2] = MIXED
        tagged = tag_pixels[patch] > 0
        if tagged.mean() >= 0.5:
            number = int(np.bincount(tag_pixels[patch][tagged]).argmax())
            digit = objects[number - 1].digit
            if digit is not None:
                labels[patch, 2] = digit
    return labels, owners
