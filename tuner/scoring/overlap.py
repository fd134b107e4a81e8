"""Whether splits share images: by name, by their pixels, and by what they look like.

The same picture under two names in two splits makes a score of one of them no score of unseen
images. Pixels are compared by their hash; pictures that look alike (the same one encoded again,
or resized) by the signs of their horizontal gradients, the difference hash (dHash).
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from resprune.errors import ConfigError, StudyError
from resprune.files import read_json, write_json
from tuner.scoring.visual import image_key
from tuner.tasks import Sample

HASHES_FILE = "pictures.json"
NEAR = 0.2
LEAST_EDGES = 24
_SIDE = 16
_STEP = 2  # grey levels: what compression leaves of an even area
_ROWS = 1024
_MAX_BYTES = 2**28

Bits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


class PictureHash(NamedTuple):
    """What tells decoded pictures apart.

    Attributes:
        pixels: blake2b of the RGB size and bytes, 32 hex digits.
        edges: Where the picture gets brighter to the right, 256 bits as 64 hex digits.
    """

    pixels: str
    edges: str


def picture_hash(image: Image.Image) -> PictureHash:
    """Hash a picture; see ``near_duplicates`` for its edges."""
    picture = image.convert("RGB")
    digest = hashlib.blake2b(f"{picture.width} {picture.height} ".encode(), digest_size=16)
    digest.update(picture.tobytes())
    small = picture.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    edges = np.diff(np.asarray(small, dtype=np.int16), axis=1) > _STEP
    return PictureHash(digest.hexdigest(), np.packbits(edges).tobytes().hex())


class PictureHashes:
    """Hashes of images by image key, kept in the run folder so that none is decoded again.

    Args:
        folder: Where their file lies; None keeps them in memory alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = None if folder is None else folder / HASHES_FILE
        self._known: dict[str, PictureHash] = {}
        if self._path is not None and self._path.is_file():
            self._known = _read(self._path)

    def of(
        self, samples: Iterable[Sample], progress: Callable[[int, int], None] | None = None
    ) -> dict[str, PictureHash]:
        """Return the hashes of all images of samples, by image key.

        Args:
            samples: Their images are decoded once each, where no hash is known.
            progress: Called with the images done and in all.

        Raises:
            StudyError: An image cannot be read, or the file cannot be written.
        """
        by_key = {image_key(sample): sample for sample in samples}
        missing = [key for key in by_key if key not in self._known]
        try:
            for done, key in enumerate(missing, 1):
                self._known[key] = picture_hash(by_key[key].load_image())
                if progress is not None:
                    progress(done, len(missing))
        finally:  # what an interruption leaves is worth keeping
            if missing and self._path is not None:
                _write(self._path, self._known)
        return {key: self._known[key] for key in by_key}


def check_names(splits: Mapping[str, Sequence[Sample]]) -> None:
    """Check that no image id is in two splits.

    Raises:
        StudyError: One is; names it and both splits.
    """
    owner: dict[str, str] = {}
    for name, samples in splits.items():
        for sample in samples:
            other = owner.setdefault(sample.image_id, name)
            if other != name:
                raise StudyError(
                    f"task.{name}: image {sample.image_id!r} is in {other} too; splits must not "
                    "share images: move its samples into one of them, or give other offsets"
                )


def check_pictures(
    splits: Mapping[str, Sequence[Sample]],
    hashes: PictureHashes,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Check that no picture is in two splits, whatever it is called.

    Warns of images of the certify and the report split that look like one of another split.

    Args:
        splits: Samples by the part they play.
        hashes: Hashes of their images; missing ones are computed.
        progress: Called with the images hashed and in all.

    Raises:
        StudyError: The same pixels in two splits; names both samples. Or an image cannot be read.
    """
    found = hashes.of((s for samples in splits.values() for s in samples), progress)
    owner: dict[str, tuple[str, Sample]] = {}
    for name, samples in splits.items():
        for sample in samples:
            other, first = owner.setdefault(found[image_key(sample)].pixels, (name, sample))
            if other != name:
                raise StudyError(
                    f"task.{name}: {_named(sample)} shows the same picture as {_named(first)} of "
                    f"{other}; splits must not share images: remove it from one of them"
                )
    for name, others in (("certify", ("tune", "fit", "report")), ("report", ("tune", "fit"))):
        _warn_of_near(splits, name, [o for o in others if o in splits], found)


def near_duplicates(one: Bits, other: Bits) -> npt.NDArray[np.int64]:
    """Find the pictures that look alike.

    The Hamming distance of two hashes is set against the edges that they have between them, since
    pictures on plain ground have few: they look alike where it is at most 0.2 of their sum, which
    is 38 of 256 bits for two nano scenes of 95 edges each. Of 1,000 nano scenes (and as many wide
    ones, and 1,000 pages of random text) no two come below .37; the same ones as JPEG of quality
    20 come to .21 at most, at half the size to .19, 10 % brighter to .11. Pictures of fewer than
    24 edges cannot be told apart by them and are not compared: of 1,000 pictures of one to four
    random shapes on white, 192 pairs would be named, and none is.

    Args:
        one: Edges, shape (N, 256).
        other: Edges, shape (M, 256).

    Returns:
        Pairs of indices, shape (P, 2), in order.
    """
    mine, theirs = one.astype(np.float32), other.astype(np.float32)
    rich = theirs.sum(1) >= LEAST_EDGES
    pairs = []
    for start in range(0, len(mine), _ROWS):
        rows = mine[start : start + _ROWS]
        edges = rows.sum(1)[:, None] + theirs.sum(1)
        near = edges - 2 * (rows @ theirs.T) <= NEAR * edges
        near &= rich & (rows.sum(1) >= LEAST_EDGES)[:, None]
        pairs.append(np.argwhere(near) + np.array([start, 0]))
    return np.concatenate(pairs)


def _warn_of_near(
    splits: Mapping[str, Sequence[Sample]],
    name: str,
    others: Sequence[str],
    found: Mapping[str, PictureHash],
) -> None:
    mine = _by_image(splits.get(name, ()))
    theirs = [(o, s) for o in others for s in _by_image(splits[o])]
    if not mine or not theirs:
        return
    pairs = near_duplicates(_edges(mine, found), _edges([s for _, s in theirs], found))
    if len(pairs):
        (i, j), count = pairs[0], len(np.unique(pairs[:, 0]))
        other, twin = theirs[j]
        warnings.warn(
            f"task.{name}: {count} of its {len(mine)} images look like one of another split, such "
            f"as {_named(mine[i])} like {_named(twin)} of {other}; where they show the same, "
            f"{name} is not about unseen images: remove them from one of the splits",
            stacklevel=4,
        )


def _by_image(samples: Sequence[Sample]) -> list[Sample]:
    """Return the first sample of each image."""
    return list({image_key(sample): sample for sample in reversed(samples)}.values())[::-1]


def _edges(samples: Sequence[Sample], found: Mapping[str, PictureHash]) -> Bits:
    packed = [np.frombuffer(bytes.fromhex(found[image_key(s)].edges), np.uint8) for s in samples]
    return np.unpackbits(np.stack(packed), axis=1).astype(np.bool_)


def _named(sample: Sample) -> str:
    return f"sample {sample.id!r} (image {sample.image_id!r})"


def _read(path: Path) -> dict[str, PictureHash]:
    """Read the file, or return nothing (with a warning) where it is damaged."""
    try:
        data = read_json(path, max_bytes=_MAX_BYTES)
        known = {key: PictureHash(*hashes) for key, hashes in data["hashes"].items()}
        if data["checksum"] != _checksum(known):
            raise ValueError("its checksum does not match")
        return known
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        warnings.warn(
            f"{path}: damaged hashes of images ({error}); they are decoded again", stacklevel=4
        )
        return {}


def _write(path: Path, known: dict[str, PictureHash]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"checksum": _checksum(known), "hashes": known})
    except OSError as error:
        raise StudyError(
            f"{path}: cannot be written ({error.strerror}); free space, change its permissions, "
            "or choose another folder with --runs"
        ) from error


def _checksum(known: Mapping[str, PictureHash]) -> str:
    text = json.dumps(sorted(known.items()))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
