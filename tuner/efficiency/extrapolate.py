"""The times of a deep decoder from two shallow ones: a + L b, with L the count of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from tuner.efficiency.stopwatch import Timed


class Depths:
    """A model that is cut to its first layers, now to this many, now to that.

    Args:
        model: The model, with at least ``max(counts)`` decoder layers.
        counts: Depths to run, two that differ.
        full: Depth of the real model.
    """

    def __init__(self, model: Any, counts: Sequence[int], full: int) -> None:
        self.counts = tuple(counts)
        self.full = full
        self._decoder = model.get_decoder()
        self._layers = list(self._decoder.layers)

    def cut(self, count: int) -> None:
        """Leave the first ``count`` layers in the model."""
        self._decoder.layers = nn.ModuleList(self._layers[:count])
        self._decoder.config.num_hidden_layers = count

    def at_full(self, timed: Mapping[int, Timed]) -> Timed:
        """Return what a call takes at full depth, from the same call at the depths that ran.

        Prefill and decoding are fitted as a + L b; what does not go through the layers is the mean
        over the depths, which the fit would only make less certain.

        Args:
            timed: A call by depth; its rows are the same in every layer.
        """
        few, many = (timed[count] for count in self.counts)

        def fitted(name: str) -> float:
            slope = (getattr(many, name) - getattr(few, name)) / (self.counts[1] - self.counts[0])
            return float(getattr(many, name) + slope * (self.full - self.counts[1]))

        def mean(name: str) -> float:
            return float(sum(getattr(each, name) for each in (few, many)) / 2)

        return replace(
            many,
            vision_ms=mean("vision_ms"),
            read_ms=mean("read_ms"),
            select_ms=mean("select_ms"),
            prepare_ms=mean("prepare_ms"),
            prefill_ms=fitted("prefill_ms"),
            other_ms=mean("other_ms"),
            decode_ms=fitted("decode_ms"),
            rows_per_layer=many.rows_per_layer[:1] * self.full,
        )
