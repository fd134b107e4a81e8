"""Image files of every kind, good ones and broken ones."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache
from typing import Any

from PIL import Image

from tests.fuzzing import mutate

OTHERS = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
    "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF",
    "ppm": b"P6 2 2 255\n" + b"\1" * 12,
    "text": "ليست صورة".encode(),
}


def _saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


@cache
def good() -> dict[str, bytes]:
    """Small images by kind; all of them open but ``tiff-float``."""
    rgb = Image.effect_noise((24, 18), 80).convert("RGB")
    rgb.paste((200, 30, 40), (0, 0, 12, 9))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0132] = 6, "maker", "2024:01:01 00:00:00"
    other = rgb.rotate(180)
    grey16 = Image.new("I;16", (20, 10), 40_000)
    return {
        "rgb": _saved(rgb, "PNG"),
        "rgba": _saved(rgb.convert("RGBA"), "PNG"),
        "palette": _saved(rgb.convert("P"), "PNG", transparency=0),
        "palette-bytes": _saved(rgb.convert("P"), "PNG", transparency=b"\0\x80\xff"),
        "one-bit": _saved(rgb.convert("1"), "PNG"),
        "grey-alpha": _saved(rgb.convert("LA"), "PNG"),
        "16-bit": _saved(grey16, "PNG"),
        "png-exif": _saved(rgb, "PNG", exif=exif),
        "apng": _saved(rgb, "PNG", save_all=True, append_images=[other]),
        "jpeg": _saved(rgb, "JPEG"),
        "turned": _saved(rgb, "JPEG", exif=exif),
        "cmyk": _saved(rgb.convert("CMYK"), "JPEG"),
        "progressive": _saved(rgb, "JPEG", progressive=True),
        "gif": _saved(rgb, "GIF"),
        "animated": _saved(rgb, "GIF", save_all=True, append_images=[other, rgb], duration=50),
        "webp": _saved(rgb, "WEBP", exif=exif),
        "webp-animated": _saved(rgb, "WEBP", save_all=True, append_images=[other]),
        "bmp": _saved(rgb, "BMP"),
        "bmp-palette": _saved(rgb.convert("P"), "BMP"),
        "tiff": _saved(rgb, "TIFF", exif=exif),
        "tiff-lzw": _saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff-cmyk": _saved(rgb.convert("CMYK"), "TIFF"),
        "tiff-16": _saved(grey16, "TIFF"),
        "tiff-pages": _saved(rgb, "TIFF", save_all=True, append_images=[other]),
        "tiff-float": _saved(rgb.convert("F"), "TIFF"),
    }


def _chunks(rng: random.Random, png: bytes) -> bytes:
    """Damage one chunk of a PNG, its checksum made to fit, so that the decoder gets to see it."""
    at, found = 8, [png[:8]]
    parts = []
    while at + 12 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        parts.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += length + 12
    which = rng.randrange(len(parts))
    for i, (name, body) in enumerate(parts):
        if i == which:
            body = mutate.raw(rng, body)
        check = struct.pack(">I", zlib.crc32(name + body))
        found += [struct.pack(">I", len(body)), name, body, check]
    return b"".join(found)


def _declared(rng: random.Random, kind: str, file: bytes) -> bytes:
    """Declare another size, mostly a huge one."""
    wide, high = (rng.choice((0, 1, 500, 30_000, 65_535, 2**20, 2**31 - 1)) for _ in range(2))
    if file[:4] == b"\x89PNG":
        body = struct.pack(">II", wide, high) + file[24:29]
        return file[:16] + body + struct.pack(">I", zlib.crc32(b"IHDR" + body)) + file[33:]
    short = struct.pack("<HH", wide & 0xFFFF, high & 0xFFFF)
    if file[:3] == b"GIF":
        return file[:6] + short + file[10:]
    if file[:2] == b"BM":
        return file[:18] + struct.pack("<ii", wide, high) + file[26:]
    if file[:2] == b"\xff\xd8":
        at = max(file.find(b"\xff\xc0"), file.find(b"\xff\xc2"))
        return file[: at + 5] + struct.pack(">HH", high & 0xFFFF, wide & 0xFFFF) + file[at + 9 :]
    return mutate.raw(rng, file)


def picture(rng: random.Random) -> bytes:
    """An image file: good, of another kind, or damaged."""
    if rng.random() < 0.06:
        return OTHERS[rng.choice(sorted(OTHERS))]
    kind = rng.choice(sorted(good()))
    file = good()[kind]
    fault = rng.choice(("none", "raw", "raw", "declared", "chunk", "exif"))
    if fault == "raw":
        return mutate.raw(rng, file)
    if fault == "declared":
        return _declared(rng, kind, file)
    if fault == "chunk":
        return _chunks(rng, file) if file[:4] == b"\x89PNG" else mutate.raw(rng, file)
    at = max(file.find(b"Exif\0\0"), file.find(b"II*\0"), file.find(b"MM\0*"))
    if fault == "exif" and at >= 0:
        return file[:at] + mutate.raw(rng, file[at : at + 60]) + file[at + 60 :]
    return file
