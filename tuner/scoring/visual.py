"""Encoder outputs of a study's images, kept in its run folder (safetensors, one file a few images).

Files are named by a fingerprint of the model; damage is noticed, said and mended, since they can be
made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from resprune.backbones import Backbone, VisualTokens
from resprune.errors import StudyError
from resprune.files import write_bytes
from tuner.tasks import Sample

CACHE_SCHEMA = 2
IMAGES_PER_FILE = 32


class VisualCache:
    """Encoder outputs by image, on disk in the run folder and in memory.

    Args:
        folder: Where the files live; created when missing.
        backbone: Encodes what is missing.
        model_key: Fingerprint of the model.
        signals: Names of the signals to record.
    """

    def __init__(
        self, folder: Path, backbone: Backbone, model_key: str, signals: Sequence[str]
    ) -> None:
        self._folder = folder
        self._backbone = backbone
        self._key = f"{CACHE_SCHEMA} {model_key} {sorted(signals)}"
        self._signals = tuple(signals)
        self._images: dict[str, tuple[VisualTokens, ...]] = {}
        self.encoder_calls = 0
        """Images that went through the encoder."""
        with _writable(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, image_key: str) -> tuple[VisualTokens, ...]:
        return self._images[image_key]

    def load(
        self, samples: Iterable[Sample], progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Make sure that the images of all samples are in memory.

        Args:
            samples: Their images are read from the cache or encoded once each.
            progress: Called with the images done and in all.

        Raises:
            StudyError: The cache cannot be written, or an image cannot be read.
        """
        by_key = {sample.image_key: sample for sample in samples}
        wanted = [key for key in by_key if key not in self._images]
        for start in range(0, len(wanted), IMAGES_PER_FILE):
            keys = wanted[start : start + IMAGES_PER_FILE]
            counts = [len(by_key[key].pictures) for key in keys]
            path = self._folder / f"visual-{self._name(keys)}.safetensors"
            found = _read_visual(path, sum(counts)) if path.is_file() else None
            if found is None:
                found = self._encode([by_key[key] for key in keys])
                _write_visual(path, found)
            each = iter(found)
            self._images |= {k: tuple(islice(each, n)) for k, n in zip(keys, counts, strict=True)}
            if progress is not None:
                progress(start + len(keys), len(wanted))

    def _name(self, keys: Sequence[str]) -> str:
        text = json.dumps([self._key, list(keys)])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _encode(self, samples: Sequence[Sample]) -> list[VisualTokens]:
        inputs, images = inputs_of(self._backbone, samples)
        sizes = [(image.height, image.width) for image in images]
        self.encoder_calls += len(images)
        encoded = self._backbone.encode(inputs, signals=self._signals, image_sizes=sizes)
        return [_on_cpu(visual) for visual in encoded]


def inputs_of(
    backbone: Backbone, samples: Sequence[Sample]
) -> tuple[dict[str, Any], list[Image.Image]]:
    """Return the model's inputs for samples, a row each, and the images of all rows, in order."""
    images = [[picture.load() for picture in sample.pictures] for sample in samples]
    prompts = [backbone.chat_prompt(s.prompt, len(s.pictures)) for s in samples]
    return processed(backbone, images, prompts), [image for row in images for image in row]


def processed(
    backbone: Backbone, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str]
) -> dict[str, Any]:
    """Run the processor on the images of each prompt, padded on the left, on the model's device."""
    tokenizer = backbone.processor.tokenizer
    side = tokenizer.padding_side
    tokenizer.padding_side = "left"
    try:
        batch = backbone.processor(
            images=[list(row) for row in images],
            text=list(prompts),
            return_tensors="pt",
            padding=True,
        )
    finally:
        tokenizer.padding_side = side
    device, dtype = backbone.model.device, backbone.model.dtype
    return {
        key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for key, value in batch.items()
        if isinstance(value, Tensor)
    }


def _on_cpu(visual: VisualTokens) -> VisualTokens:
    def moved(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.detach().cpu().contiguous() for name, value in values.items()}

    return VisualTokens(
        tokens=visual.tokens.detach().cpu().contiguous(),
        signals=moved(visual.signals),
        grid=visual.grid,
        boxes=None if visual.boxes is None else visual.boxes.detach().cpu().contiguous(),
        extras=moved(visual.extras),
        places=None if visual.places is None else visual.places.detach().cpu().contiguous(),
    )


def _write_visual(path: Path, images: Sequence[VisualTokens]) -> None:
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for i, visual in enumerate(images):
        tensors[f"{i}/tokens"] = visual.tokens
        for name in ("boxes", "places"):
            if getattr(visual, name) is not None:
                tensors[f"{i}/{name}"] = getattr(visual, name)
        for kind, values in (("signals", visual.signals), ("extras", visual.extras)):
            tensors |= {f"{i}/{kind}/{name}": value for name, value in values.items()}
    metadata = {
        "schema": str(CACHE_SCHEMA),
        "grids": json.dumps([list(visual.grid) for visual in images]),
        "checksum": _checksum(tensors),
    }
    # Cloned, since images cut from one batch share their storage.
    data = save({name: value.clone() for name, value in tensors.items()}, metadata)
    with _writable(path):
        write_bytes(path, data)


def _read_visual(path: Path, count: int) -> list[VisualTokens] | None:
    """Read a cache file, or return None (with a warning) when it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        grids = json.loads(metadata["grids"])
        if metadata["checksum"] != _checksum(tensors) or len(grids) != count:
            raise ValueError("its checksum does not match")
        return [_image_of(tensors, i, tuple(grid)) for i, grid in enumerate(grids)]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        warnings.warn(
            f"{path}: damaged visual cache ({error}); its images are encoded again", stacklevel=3
        )
        return None


def _image_of(tensors: Mapping[str, Tensor], i: int, grid: tuple[int, int]) -> VisualTokens:
    def named(kind: str) -> dict[str, Tensor]:
        prefix = f"{i}/{kind}/"
        return {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }

    return VisualTokens(
        tokens=tensors[f"{i}/tokens"],
        signals=named("signals"),
        grid=grid,
        boxes=tensors.get(f"{i}/boxes"),
        extras=named("extras"),
        places=tensors.get(f"{i}/places"),
    )


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"{path}: cannot be written ({error.strerror}); free space, change its permissions, "
            "or choose another folder with --runs"
        ) from error
