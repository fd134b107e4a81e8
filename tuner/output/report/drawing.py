"""Kept tokens drawn over an image: kept ones outlined, dropped ones faded."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from typing import Any

Box = tuple[float, float, float, float]
_PNG = b"\x89PNG\r\n\x1a\n"


def drawing(image_base64: str, boxes: Sequence[Box]) -> dict[str, Any] | None:
    """Return what the page's SVG of an image and its kept tokens is made of.

    Args:
        image_base64: A PNG.
        boxes: x0, y0, x1, y1 of each kept token in image pixels.

    Returns:
        ``width`` and ``height`` in pixels, ``png`` (base64), ``outline`` (a path of the boxes)
        and its ``stroke`` width; None where the image is no PNG.
    """
    try:
        raw = base64.b64decode(image_base64, validate=True)
    except (binascii.Error, ValueError):
        return None
    if raw[:8] != _PNG or len(raw) < 24:
        return None
    width, height = struct.unpack(">II", raw[16:24])
    outline = "".join(f"M{x0:g} {y0:g}H{x1:g}V{y1:g}H{x0:g}Z" for x0, y0, x1, y1 in boxes)
    png = base64.b64encode(raw).decode()
    size = {"width": width, "height": height, "stroke": f"{max(width, height) / 180:.2f}"}
    return {**size, "png": png, "outline": outline}
