"""Images that anyone may have sent: their size is looked at before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image, UnidentifiedImageError

from examples.server.limits import Limits, Refused

FORMATS = ("PNG", "JPEG", "WEBP")


def read_image(text: str, limits: Limits) -> Image.Image:
    """Decode an image.

    Args:
        text: Base64, alone or as a ``data:`` URL.
        limits: The server's limits.

    Returns:
        The image, RGB; of an animation the first frame.

    Raises:
        Refused: Not base64, no image of an accepted format, too large, or broken.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "image is not base64, alone or as a data: URL") from None
    accepted = ", ".join(FORMATS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused(415, f"image is none of {accepted}") from None
    except Image.DecompressionBombError:
        raise Refused(413, f"image has over {limits.pixels} pixels") from None
    except (OSError, ValueError, SyntaxError):
        raise Refused(422, f"image is broken; give {accepted}") from None
    width, height = image.size
    if width * height > limits.pixels:
        raise Refused(
            413, f"image has {width} x {height} pixels; at most {limits.pixels} are accepted"
        )
    try:
        return image.convert("RGB")
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError, EOFError):
        raise Refused(422, "image is broken: it cannot be decoded to its end") from None
