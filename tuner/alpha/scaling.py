"""The features in use and their standardisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MIN_VARIED = 0.01


@dataclass(frozen=True, eq=False)
class Scaler:
    """Which features are used and how, as the predictor stores it.

    Attributes:
        columns: (F',) features in use.
        center: (F',) mean of each.
        scale: (F',) standard deviation of each, or 1 where it does not vary.
        low: (F',) least value.
        high: (F',) greatest value.
    """

    columns: npt.NDArray[np.int64]
    center: Floats
    scale: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, features: Floats) -> Scaler:
        """Learn it from features (N, F)."""
        # a feature that almost never varies would fit the noise of the few samples where it does
        enough = max(5, round(_MIN_VARIED * len(features)))
        modes = [np.unique(column, return_counts=True)[1].max() for column in features.T]
        columns = np.flatnonzero(len(features) - np.array(modes) >= enough)
        if not len(columns):
            columns = np.array([0])
        used = features[:, columns]
        scale = used.std(axis=0)
        return cls(
            columns,
            used.mean(axis=0),
            np.where(scale > 1e-9, scale, 1.0),
            used.min(axis=0),
            used.max(axis=0),
        )

    def __call__(self, features: Floats) -> Floats:
        """Pick, clip and standardise: (N, F) -> (N, F')."""
        used = np.clip(features[:, self.columns], self.low, self.high)
        scaled: Floats = (used - self.center) / self.scale
        return scaled
