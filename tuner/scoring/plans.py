"""Settings -> plans for every sample of a split, each order computed once.

Nested methods are ordered once to the largest budget asked for; the prompts of an image and all
options are ordered together where the method has a batched path.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resprune import methods
from resprune.backbones import VisualTokens
from resprune.budget import Energy
from resprune.methods.base import Inputs, Method, Nested
from resprune.options import Options, Relevance
from resprune.plan import (
    Plan,
    batch_of,
    check_orders,
    inputs_of,
    plan_of,
    relevance_of,
    select,
    with_rule,
)
from resprune.prompt import Prompt
from resprune.setting import Setting
from resprune.subspace.energy import energy_curve
from tuner.scoring.llm import in_threads

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_IMAGES_AT_ONCE = 8  # whose Gram matrices and expansions are worked on together


class Planner:
    """Plans the samples of one split.

    Args:
        images: Image of each of N samples, by name.
        visual: Returns the encoded image of a sample.
        prompt: Returns the question of a sample, read into nouns.
        keys: Name of each sample, for methods that draw at random.
        workers: Chunks of images that are ordered at once.
    """

    def __init__(
        self,
        images: Sequence[str],
        visual: Callable[[int], VisualTokens],
        prompt: Callable[[int], Prompt],
        keys: Sequence[str],
        workers: int,
    ) -> None:
        self._images = images
        self._visual = visual
        self._prompt = prompt
        self._keys = keys
        self._workers = workers
        self._maps: dict[Relevance, list[Tensor]] = {}
        self._tokens = [len(visual(i).tokens) for i in range(len(images))]

    def counts(self, setting: Setting) -> Ints:
        """Return how many tokens of each sample's image a setting keeps at most, shape (N,)."""
        return np.array([setting.budget.limit(tokens) for tokens in self._tokens])

    def plans(self, settings: Sequence[Setting]) -> list[list[Plan]]:
        """Plan every sample under each setting: S lists of N plans."""
        found: dict[int, list[Plan]] = {}
        groups: dict[tuple[str, Relevance | None], list[int]] = defaultdict(list)
        for s, setting in enumerate(settings):
            if methods.get(setting.method).nested:
                groups[setting.method, _relevance(setting)].append(s)
            else:
                found[s] = self._plans_each(setting)
        for rows in groups.values():
            members = [settings[s] for s in rows]
            found |= zip(rows, self._plans_nested(members), strict=True)
        return [found[s] for s in range(len(settings))]

    def _plans_each(self, setting: Setting) -> list[Plan]:
        inputs = (self._inputs(i, setting) for i in range(len(self._images)))
        return [plan_of(select(image, setting), image, setting) for image in inputs]

    def _plans_nested(self, settings: Sequence[Setting]) -> list[list[Plan]]:
        """Plan under settings of one method that share what relevance is made from."""
        options = list(dict.fromkeys(setting.options for setting in settings))
        limits = np.stack([self.counts(setting) for setting in settings]).max(axis=0)
        orders = dict(zip(options, self._orders(settings[0], options, limits), strict=True))
        curves: dict[Options, list[Floats]] = {}
        plans = []
        for setting in settings:
            order = orders[setting.options]
            counts = self.counts(setting)
            if isinstance(setting.budget, Energy):
                if setting.options not in curves:
                    curves[setting.options] = self._curves(setting, order, limits)
                counts = np.array(
                    [
                        setting.budget.of(tokens, curve.tolist())
                        for tokens, curve in zip(self._tokens, curves[setting.options], strict=True)
                    ]
                )
            plans.append(_cut(order, counts, setting, self._tokens))
        return plans

    def _orders(self, setting: Setting, options: Sequence[Options], limits: Ints) -> Ints:
        """Pick orders under each of A options, shape (A, N, K); -1 past an image's limit."""
        method = methods.get(setting.method)
        if not isinstance(method, Nested):
            return self._orders_each(setting, method, options, limits)
        maps = None
        if any("relevance" in method.needs(each) for each in options):
            maps = self._relevance(setting)
        out = np.full((len(options), len(limits), limits.max()), -1, dtype=np.int64)

        def expand(members: list[list[int]]) -> tuple[list[list[int]], Tensor]:
            most = max(len(rows) for rows in members) if maps is not None else 1
            # Images with fewer questions repeat their last one; the copies are not read.
            table = [rows + rows[-1:] * (most - len(rows)) for rows in members]
            encoded = [self._visual(rows[0]) for rows in members]
            batch = batch_of(
                [(visual.tokens, visual.signals) for visual in encoded],
                [None if maps is None else torch.stack([maps[i] for i in row]) for row in table],
            )
            k = max(int(limits[rows].max()) for rows in members)
            return members, method.order_many(batch, options, k)

        for members, found in in_threads(expand, list(self._chunks()), self._workers):
            for image, rows in enumerate(members):
                width = found.shape[-1]
                orders = found[image, : len(rows)].transpose(0, 1)  # one prompt serves all rows
                out[:, rows, :width] = orders.expand(-1, len(rows), -1).numpy()
        for order in out:
            check_orders(torch.from_numpy(order), limits.tolist(), self._tokens, method.name)
        return out

    def _orders_each(
        self, setting: Setting, method: Method[Any], options: Sequence[Options], limits: Ints
    ) -> Ints:
        out = np.full((len(options), len(limits), limits.max()), -1, dtype=np.int64)
        for a, each in enumerate(options):
            for i, limit in enumerate(limits.tolist()):
                one = setting.model_copy(update={"options": each}).at(limit)
                out[a, i, :limit] = select(self._inputs(i, one), one).indices.numpy()
        return out

    def _curves(self, setting: Setting, order: Ints, limits: Ints) -> list[Floats]:
        """Share of energy left after each pick of every sample."""
        method = methods.get(setting.method)
        found = []
        for i, limit in enumerate(limits.tolist()):
            image = self._inputs(i, setting)
            picks = torch.from_numpy(order[i, :limit])
            weights = method.weights(image, setting.options)
            found.append(energy_curve(image.tokens, picks, weights).numpy())
        return found

    def _inputs(self, i: int, setting: Setting) -> Inputs:
        needs = methods.get(setting.method).needs(setting.options)
        prompt = self._prompt(i) if "relevance" in needs else None
        return inputs_of(self._visual(i), prompt, setting, self._keys[i])

    def _relevance(self, setting: Setting) -> list[Tensor]:
        """Relevance map of every sample, (T_i,) each."""
        options: Relevance = setting.options.relevance  # type: ignore[attr-defined]
        if options not in self._maps:
            self._maps[options] = [
                relevance_of(self._visual(i), self._prompt(i), options)
                for i in range(len(self._images))
            ]
        return self._maps[options]

    def _chunks(self) -> Iterator[list[list[int]]]:
        """Yield sample rows by image, several images at a time."""
        rows: dict[str, list[int]] = defaultdict(list)
        for i, image in enumerate(self._images):
            rows[image].append(i)
        images = list(rows.values())
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            yield images[start : start + _IMAGES_AT_ONCE]


def _relevance(setting: Setting) -> Relevance | None:
    return getattr(setting.options, "relevance", None)


def _cut(order: Ints, counts: Ints, setting: Setting, tokens: Sequence[int]) -> list[Plan]:
    """Keep the first picks of each sample's order, of an image of so many tokens."""
    head = order[:, : counts.max()]
    high = np.iinfo(np.int64).max
    ranked = np.sort(np.where(np.arange(head.shape[1]) < counts[:, None], head, high), axis=1)
    kept = torch.from_numpy(ranked).unbind()
    return [
        with_rule(Plan(row[:k], setting.positions), setting, total)
        for row, k, total in zip(kept, counts.tolist(), tokens, strict=True)
    ]
