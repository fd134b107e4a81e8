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

import numpy as np

from resprune.errors import ConfigError, StudyError
from resprune.files import read_json, write_json
from tuner.pictures import PictureHash, edges_of, near_duplicates, picture_hash
from tuner.problems import all_of
from tuner.tasks import Sample

HASHES_FILE = "pictures.json"
_MAX_BYTES = 2**28


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
        by_key = {picture.key: picture for sample in samples for picture in sample.pictures}
        missing = [key for key in by_key if key not in self._known]
        problems: list[str] = []
        try:
            for done, key in enumerate(missing, 1):
                try:
                    self._known[key] = picture_hash(by_key[key].load())
                except StudyError as error:
                    problems.append(str(error))
                if progress is not None:
                    progress(done, len(missing))
        finally:  # what an interruption leaves is worth keeping
            if missing and self._path is not None:
                _write(self._path, self._known)
        if problems:
            raise StudyError(all_of(problems, "images"))
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
            for picture in sample.pictures:
                other, first = owner.setdefault(found[picture.key].pixels, (name, sample))
                if other != name:
                    raise StudyError(
                        f"task.{name}: {_named(sample)} shows the same picture as {_named(first)} "
                        f"of {other}; splits must not share images: remove it from one of them"
                    )
    for name, others in (("certify", ("tune", "fit", "report")), ("report", ("tune", "fit"))):
        _warn_of_near(splits, name, [o for o in others if o in splits], found)


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
    pairs = near_duplicates(
        edges_of([found[key] for key, _ in mine]), edges_of([found[key] for _, (key, _) in theirs])
    )
    if len(pairs):
        (i, j), count = pairs[0], len(np.unique(pairs[:, 0]))
        other, (_, twin) = theirs[j]
        warnings.warn(
            f"task.{name}: {count} of its {len(mine)} images look like one of another split, such "
            f"as {_named(mine[i][1])} like {_named(twin)} of {other}; where they show the same, "
            f"{name} is not about unseen images: remove them from one of the splits",
            stacklevel=4,
        )


def _by_image(samples: Sequence[Sample]) -> list[tuple[str, Sample]]:
    """Return the key of each picture, and the first sample that shows it."""
    found: dict[str, Sample] = {}
    for sample in samples:
        for picture in sample.pictures:
            found.setdefault(picture.key, sample)
    return list(found.items())


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
