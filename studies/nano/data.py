"""Training and monitor scenes, drawn once and kept as arrays beside the checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resprune.files import publish
from studies.nano.loop import Draws, Run
from studies.nano.processor import PIXEL_MEAN, PIXEL_STD
from studies.nano.questions import Question, ask
from studies.nano.scenes import IMAGE_SIZE, PATCHES, Scene, SceneObject, generate_scene
from studies.nano.splits import Split, scene_seed
from studies.nano.vision import Vision

LABELS = ("shape", "color", "digit", "object", "center")


@dataclass(frozen=True)
class SceneArrays:
    """Pixels (n, 112, 112, 3) uint8, labels (n, 196, 5) int8 as in `LABELS`, and the objects."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int8]
    objects: Sequence[tuple[SceneObject, ...]]

    def __len__(self) -> int:
        return len(self.objects)

    def images(self, index: Sequence[int] | slice) -> torch.Tensor:
        """Normalised pixels (B, 3, 112, 112), as the processor gives them."""
        chosen = torch.from_numpy(np.array(self.pixels[index]))
        scaled = chosen.permute(0, 3, 1, 2).float() / 255
        return (scaled - PIXEL_MEAN) / PIXEL_STD

    def targets(self, index: Sequence[int] | slice) -> torch.Tensor:
        """Labels (B, 196, 5) as integers."""
        return torch.from_numpy(self.labels[index].astype(np.int64))


def patch_targets(scene: Scene) -> npt.NDArray[np.int8]:
    """Return the labels (196, 5; more for a wide scene), in the order of `LABELS`."""
    rows, columns = scene.canvas.grid
    centers = np.zeros(rows * columns, np.int8)
    centers[[o.row * columns + o.column for o in scene.objects]] = 1
    return np.concatenate(
        [scene.patch_labels, scene.patch_objects[:, None], centers[:, None]], axis=1
    )


Drawn = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8]]


def prepare_scenes(run: Run, split: Split, count: int) -> SceneArrays:
    """Draw the first scenes of a split, a share in each process, unless they are on disk."""
    scenes = [generate_scene(scene_seed(split, i)) for i in range(count)]
    shapes = (IMAGE_SIZE, IMAGE_SIZE, 3), (PATCHES, len(LABELS))
    pixels, labels = prepare_arrays(run, split, scenes, shapes, _draw)
    return SceneArrays(pixels, labels, [s.objects for s in scenes])


def _draw(scene: Scene) -> Drawn:
    return np.asarray(scene.image), patch_targets(scene)


def prepare_arrays(
    run: Run,
    split: Split,
    scenes: Sequence[Scene],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    draw: Callable[[Scene], Drawn],
) -> Drawn:
    """Return pixels and labels of scenes, of these shapes each, from disk where they lie there."""
    kinds = {"pixels": (shapes[0], np.uint8), "labels": (shapes[1], np.int8)}
    paths = {name: run.out / "data" / f"{split}-{name}.npy" for name in kinds}
    missing = not all(p.exists() for p in paths.values())
    run.wait()
    if missing:
        count = len(scenes)
        shares = {n: shared_array(run, paths[n], (count, *s), t) for n, (s, t) in kinds.items()}
        for i in range(run.rank, count, run.processes):
            # A copy, so that its picture does not stay in memory.
            drawn = draw(replace(scenes[i]))
            for array, value in zip(shares.values(), drawn, strict=True):
                array[i] = value
        for name, array in shares.items():
            publish_array(run, array, paths[name])
    pixels, labels = (np.load(path, mmap_mode="r") for path in paths.values())
    return pixels, labels


def shared_array(run: Run, path: Path, shape: tuple[int, ...], dtype: Any) -> Any:
    """Open an array that all processes fill in; `publish_array` gives it its name."""
    part = path.with_suffix(".part")
    if run.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(part, "w+", dtype, shape).flush()
    run.wait()
    return np.lib.format.open_memmap(part, "r+")


def publish_array(run: Run, array: Any, path: Path) -> None:
    """Give a filled-in array its final name once every process has written its share."""
    array.flush()
    run.wait()
    if run.rank == 0:
        publish(path.with_suffix(".part"), path)
    run.wait()


def prepare_features(run: Run, vision: Vision, scenes: SceneArrays) -> Any:
    """Run the frozen vision tower over all scenes: (n, 196, width) half-precision features."""
    path = run.out / "data" / "train-features.npy"
    missing = not path.exists()
    run.wait()
    if missing:
        array = shared_array(run, path, (len(scenes), PATCHES, vision.width), np.float16)
        for begin in range(run.rank * 64, len(scenes), run.processes * 64):
            chosen = slice(begin, begin + 64)
            array[chosen] = patch_features(vision, scenes.images(chosen)).half().numpy()
        publish_array(run, array, path)
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def patch_features(vision: Vision, images: torch.Tensor) -> torch.Tensor:
    """Patch features (B, 196, width) of the layer that the model selects (its last)."""
    return vision.encode(images)[0]


def ask_about(
    objects: Sequence[tuple[SceneObject, ...]], draws: Draws, count: int
) -> list[list[Question]]:
    """Draw fresh questions about each layout."""
    return [ask(layout, draws.python, count) for layout in objects]
