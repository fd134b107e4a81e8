"""Outcomes of a whole grid of settings on one population of samples: what replays read.

A study draws its samples from a population that nobody sees whole. In a `Table` the population is
a list that is fully scored, so what a chosen setting truly scores is known exactly.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resprune.errors import ResPruneError, near_names
from resprune.files import write_bytes
from resprune.setting import Setting

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DATA = Path(__file__).parent / "data"
_ARRAYS = ("about", "right", "likelihoods", "features", "images")


@dataclass(frozen=True, eq=False)
class Table:
    """S settings scored on N samples.

    Attributes:
        settings: S settings, the unpruned one among them.
        right: (S, N) whether the answer was right.
        likelihoods: (S, N) log-likelihood in nats of the gold answer's first token, at least
            `tuner.scoring.metrics.LEAST_LOG_LIKELIHOOD`.
        features: (N, F) features of the prompts.
        feature_names: Their F names.
        questions: Text of each sample's question.
        groups: Question type of each sample.
        images: (N,) image of each sample, from 0.
        made: How it was made: model, split, versions.
    """

    settings: tuple[Setting, ...]
    right: Bools
    likelihoods: Floats
    features: Floats
    feature_names: tuple[str, ...]
    questions: tuple[str, ...]
    groups: tuple[str, ...]
    images: Ints
    made: dict[str, Any]

    def __post_init__(self) -> None:
        s, n = len(self.settings), len(self.images)
        wanted = {
            "right": (s, n),
            "likelihoods": (s, n),
            "features": (n, len(self.feature_names)),
            "questions": (n,),
            "groups": (n,),
        }
        for name, shape in wanted.items():
            found = np.shape(getattr(self, name))
            if found != shape:
                raise ResPruneError(f"table: {name} has shape {found}, expected {shape}")

    @cached_property
    def truth(self) -> Floats:
        """(S,) mean score of each setting over the population."""
        means: Floats = self.right.mean(axis=1)
        return means

    @cached_property
    def unpruned(self) -> int:
        """Row of the unpruned model."""
        (row,) = self.rows("unpruned")
        return row

    @cached_property
    def budgets(self) -> tuple[int, ...]:
        """Budgets in tokens, the largest first."""
        found = {s.budget.count for s in self.settings if s.method != "unpruned"}  # type: ignore[union-attr]
        return tuple(sorted(found, reverse=True))

    @cached_property
    def _places(self) -> dict[Setting, int]:
        return {setting: row for row, setting in enumerate(self.settings)}

    @cached_property
    def samples_of(self) -> tuple[Ints, ...]:
        """Samples of each image."""
        return tuple(np.flatnonzero(self.images == i) for i in range(int(self.images.max()) + 1))

    def scores(self, row: int, samples: Ints) -> Floats:
        """Return the scores of one row on some samples, shape (n,)."""
        scores: Floats = self.right[row, samples].astype(np.float64)
        return scores

    def row(self, setting: Setting) -> int:
        """Return the row of a setting.

        Raises:
            ResPruneError: It is not in the table.
        """
        if setting not in self._places:
            names = sorted({s.method for s in self.settings})
            raise ResPruneError(
                f"table: holds no {setting.method} with {setting.options} at {setting.budget}. "
                f"{near_names(setting.method, names)}"
            )
        return self._places[setting]

    def rows(self, method: str, budget: int | None = None) -> list[int]:
        """Return the rows of a method, at one budget or at all."""
        return [
            row
            for row, s in enumerate(self.settings)
            if s.method == method and budget in (None, getattr(s.budget, "count", None))
        ]

    def save(self, path: Path) -> None:
        """Write it as one compressed npz file, without pickle; the rest of it is JSON in bytes."""
        about = {
            "settings": [s.model_dump(mode="json") for s in self.settings],
            "feature_names": self.feature_names,
            "questions": self.questions,
            "groups": self.groups,
            "made": self.made,
        }
        data = io.BytesIO()
        np.savez_compressed(
            data,
            about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
            right=np.packbits(self.right, axis=1),
            likelihoods=self.likelihoods.astype(np.float16),
            features=self.features.astype(np.float32),
            images=self.images.astype(np.int32),
        )
        write_bytes(path, data.getvalue())

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read what `save` wrote.

        Raises:
            ResPruneError: No such file, or no table.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in _ARRAYS}
            about = json.loads(arrays["about"].tobytes())
            settings = tuple(Setting.model_validate(each) for each in about["settings"])
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise ResPruneError(
                f"{path}: no table ({error}); make it with `python -m benchmarks.tabulated`"
            ) from error
        images = arrays["images"].astype(np.int64)
        return cls(
            settings=settings,
            right=np.unpackbits(arrays["right"], axis=1, count=len(images)).astype(bool),
            likelihoods=arrays["likelihoods"].astype(np.float64),
            features=arrays["features"].astype(np.float64),
            feature_names=tuple(about["feature_names"]),
            questions=tuple(about["questions"]),
            groups=tuple(about["groups"]),
            images=images,
            made=about["made"],
        )

    @classmethod
    def shipped(cls) -> Table:
        """Read the table of nano-llava that lies beside this file."""
        return cls.load(DATA / "nano-llava.npz")


def images_from_names(names: Sequence[str]) -> Ints:
    """Number images in the order in which they come first."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([places[name] for name in names], dtype=np.int64)
