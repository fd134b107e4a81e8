"""Kept tokens drawn over an image, as SVG: kept ones outlined, dropped ones faded."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence

Box = tuple[float, float, float, float]
_PNG = b"\x89PNG\r\n\x1a\n"
_NO_IMAGE = '<p class="note">The image is damaged and cannot be shown.</p>'


def kept_svg(image_base64: str, boxes: Sequence[Box] | None, label: str, color: str) -> str:
    """Return an SVG of the image with the kept tokens left bright and outlined.

    Args:
        image_base64: A PNG.
        boxes: x0, y0, x1, y1 of each kept token in image pixels; None draws the image alone.
        label: Said by a screen reader; already escaped.
        color: Of the outlines.

    Returns:
        The SVG element, or a note where the image is no PNG.
    """
    try:
        raw = base64.b64decode(image_base64, validate=True)
    except (binascii.Error, ValueError):
        return _NO_IMAGE
    if raw[:8] != _PNG or len(raw) < 24:
        return _NO_IMAGE
    width, height = struct.unpack(">II", raw[16:24])
    pixelated = ' style="image-rendering:pixelated"' if max(width, height) <= 256 else ""
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">',
        f'<image href="data:image/png;base64,{base64.b64encode(raw).decode()}" '
        f'width="{width}" height="{height}"{pixelated}/>',
    ]
    if boxes is not None:
        paths = [f"M{x0:g} {y0:g}H{x1:g}V{y1:g}H{x0:g}Z" for x0, y0, x1, y1 in boxes]
        line = max(width, height) / 180
        parts.append(
            f'<path d="M0 0H{width}V{height}H0Z{"".join(paths)}" fill="#fff" '
            'fill-opacity=".74" fill-rule="evenodd"/>'
            f'<path d="{"".join(paths)}" fill="none" stroke="{color}" stroke-width="{line:.2f}"/>'
        )
    return "".join([*parts, "</svg>"])
