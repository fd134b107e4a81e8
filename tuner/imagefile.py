"""Opening an image file that may come from anyone, and drawing kept tokens on it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from resprune.errors import ResPruneError
from resprune.files import written_beside

# what cameras and browsers write; others (EPS runs Ghostscript) are not opened at all
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 2**26
_ORIENTATION = 0x0112  # of EXIF
_DROPPED = 0.74  # how far a dropped token is faded towards white
_OUTLINE = (0, 114, 178)
_LEAST_SIDE = 448  # small images are enlarged, so that outlines do not cover them

Box = Sequence[float]


def open_image(source: Path | bytes, name: str | None = None) -> Image.Image:
    """Open an image file.

    Args:
        source: The file, or what is in it; of several frames the first is taken.
        name: What messages call it; the path by default.

    Returns:
        RGB, upright (its EXIF orientation applied); 16 bits a channel are scaled to 8.

    Raises:
        ResPruneError: Missing, no image, damaged, or over 2^26 pixels.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            # the check below refuses with the size, before anything is decoded; what else is
            # warned of (a damaged EXIF block, a palette) is nothing that a user can act on
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
                return _rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise ResPruneError(
            f"{name}: more pixels than the {MAX_PIXELS:,} that are opened; shrink it ({error})"
        ) from None
    except UnidentifiedImageError:
        raise ResPruneError(
            f"{name}: not an image; give a file of one of the formats {', '.join(FORMATS)}"
        ) from None
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ResPruneError(f"{name}: cannot be read as an image ({reason})") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; of 16 bits a channel the high ones are kept, where Pillow would cut off."""
    if image.mode == "F":
        raise ValueError("its pixels are 32-bit floats, whose white is unknown; save it as 8 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray((grey.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


class ImageFacts(NamedTuple):
    """What an image file is, before it is made upright RGB.

    Attributes:
        size: Width and height as they are stored, pixels.
        mode: Pillow's mode, such as ``RGB``, ``CMYK`` or ``I;16``.
        format: Such as ``PNG``.
        frames: Of an animation the first is taken.
        turned: Whether its EXIF orientation turns it.
    """

    size: tuple[int, int]
    mode: str
    format: str
    frames: int
    turned: bool


def image_facts(source: bytes) -> ImageFacts:
    """Read the header of an image file; call ``open_image`` first, which says what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(source), formats=FORMATS) as image:
            turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
            try:
                frames = getattr(image, "n_frames", 1)
            except Exception:  # a damaged frame after the first, which alone is taken
                frames = 1
            return ImageFacts(image.size, image.mode, str(image.format), frames, turned)


def draw_kept(image: Image.Image, boxes: Iterable[Box]) -> Image.Image:
    """Draw which visual tokens were kept: dropped ones faded, kept ones outlined.

    Args:
        image: RGB.
        boxes: x0, y0, x1, y1 of each kept token, in the image's pixels; what lies outside the
            image is cut off.

    Returns:
        A new image, enlarged by a whole factor where it is small.
    """
    factor = max(1, -(-_LEAST_SIDE // max(image.size)))
    width, height = image.width * factor, image.height * factor
    large = image.resize((width, height), Image.Resampling.NEAREST)
    drawn = Image.blend(large, Image.new("RGB", large.size, "white"), _DROPPED)
    corners = [tuple(round(side * factor) for side in box) for box in boxes]
    for x0, y0, x1, y1 in corners:
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if left < right and top < bottom:
            drawn.paste(large.crop((left, top, right, bottom)), (left, top))
    pen = ImageDraw.Draw(drawn)
    line = max(1, max(drawn.size) // 400)
    for x0, y0, x1, y1 in corners:
        if x0 < x1 and y0 < y1:
            pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=_OUTLINE, width=line)
    return drawn


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG beside its place and rename it.

    Raises:
        ResPruneError: It cannot be written.
    """
    try:
        with written_beside(path) as beside:
            image.save(beside, "PNG")
    except OSError as error:
        raise ResPruneError(f"{path}: cannot be written ({error.strerror})") from error
