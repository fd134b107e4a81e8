"""Lazy block greedy: the exact order of one image with few, large matrix products.

Within one pass of the expansion scores only fall. So among the ``m`` tokens of best score, picks
are exact as long as the best current score is above the best stale score outside; then one block
update (a matrix product and a triangular solve) brings all tokens up to date. Where the recurrence
reads the (T, d) features once a pick, this reads them once a block.

For the CPU: the steps among candidates run in numpy, whose calls cost less than torch's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resprune.subspace.features import Features
from resprune.subspace.rules import SAFE_PIVOT

Floats = NDArray[np.floating]
Indices = NDArray[np.int64]

_ALL_CANDIDATES = 256  # images up to this size need no second look at the tokens outside
_FEWEST_CANDIDATES = 64
_CANDIDATES_PER_ROOT = 2.4  # m ~ sqrt(T) balances the blocks (m^2 d) with the updates (T d a pick)

_SOON = 128  # tokens beyond the candidates that a shared image may compute ahead


def lazy_order(
    features: Features, weights: Tensor, steps: int, first: int | None, tolerance: float
) -> list[int]:
    """Order the tokens of one image.

    Args:
        features: The image, T tokens.
        weights: Non-negative weights, shape (T,).
        steps: Count of picks, at most T.
        first: Index of the seed, or None.
        tolerance: Relative residual energy at which a token is exhausted.

    Returns:
        Indices in pick order.
    """
    run = _Expansion(features, weights, steps, tolerance)
    if first is not None:
        run.forced = first
    while len(run.order) < steps:
        run.extend()
    return run.order


class _Block(NamedTuple):
    """Picks made among candidates.

    Attributes:
        kept: Tokens picked.
        spanning: Those of them with energy.
        triangle: Their factor, row i of step i, column j of pick j; meaningful for j >= i.
        safe: False if it stopped before a pick that is unsafe to divide by in float32.
    """

    kept: Indices
    spanning: Indices
    triangle: Floats
    safe: bool

    @classmethod
    def of(
        cls,
        chosen: Indices,
        picks: list[int],
        spanning: list[int],
        factor: Floats,
        *,
        safe: bool,
    ) -> _Block:
        """Name the tokens picked, given their positions among those chosen."""
        triangle = factor[: len(spanning), spanning]
        return cls(chosen[picks], chosen[spanning], triangle, safe)


class _Candidates(NamedTuple):
    """Tokens to pick among.

    Attributes:
        chosen: The best live tokens, by rising index.
        bar: Score of the best token outside them, -inf without one.
        rival: Its index.
        soon: The next best tokens.
    """

    chosen: Indices
    bar: float
    rival: int
    soon: Indices


class _Expansion:
    """One expansion: what is kept, and how much of each token lies outside its span."""

    def __init__(self, features: Features, weights: Tensor, steps: int, tolerance: float) -> None:
        self.features = features
        self.tolerance = tolerance
        self.order: list[int] = []
        self.forced: int | None = None
        self.steps = steps
        worth = (features.norms.square() * weights.double()).numpy()
        self.worth: Floats = worth / max(float(worth.max()), np.finfo(np.float64).tiny)
        count = len(worth)
        self.candidates = count
        if count > _ALL_CANDIDATES:
            self.candidates = max(_FEWEST_CANDIDATES, int(_CANDIDATES_PER_ROOT * math.sqrt(count)))
        self.restart()

    def restart(self) -> None:
        """Forget the subspace: every token that is left has its full energy again."""
        self.subspace: list[int] = []
        self.factor = torch.empty(self.steps, len(self.worth), dtype=self.features.dtype)
        energy = (self.features.norms > 0).to(self.features.dtype).numpy()
        energy[self.order] = -np.inf
        self.energy: Floats = energy

    def extend(self) -> None:
        """Add one block of picks."""
        live = np.flatnonzero(self.energy > self.tolerance)
        if self.forced is None and not len(live):
            if self.subspace:
                self.restart()
            else:  # none but zero tokens are left
                rest = np.flatnonzero(~np.isneginf(self.energy))
                self.order.extend(rest[: self.steps - len(self.order)].tolist())
            return
        block = self._pick(self._candidates(live))
        depth = len(self.subspace)
        self.order.extend(block.kept.tolist())
        self.subspace.extend(block.spanning.tolist())
        if len(self.order) >= self.steps:
            return
        if not block.safe:
            self.features = self.features.in_double()
            self._project_again()
        elif len(block.spanning):
            self._project(depth, block)
        self.energy[block.kept] = -np.inf

    def _candidates(self, live: Indices) -> _Candidates:
        """The best tokens by score then index."""
        score = self.energy[live] * self.worth[live]
        bar, rival, soon = -np.inf, len(self.worth), live[:0]
        if len(live) > self.candidates:
            last = min(self.candidates + _SOON, len(live) - 1)
            best = np.argpartition(-score, (self.candidates, last))
            lowest = score[best[self.candidates]]
            # Ties at the edge: the lowest indices go in, as they would be picked first.
            above, at = np.flatnonzero(score > lowest), np.flatnonzero(score == lowest)
            inside = self.candidates - len(above)
            bar, rival = float(lowest), int(live[at[inside]])
            chosen = np.sort(np.concatenate((above, at[:inside])))
            soon = live[np.setdiff1d(best[: last + 1], chosen, assume_unique=True)]
            live = live[chosen]
        if self.forced is not None:
            live = np.union1d(live, [self.forced])
            soon = soon[soon != self.forced]
        return _Candidates(live, bar, rival, soon)

    def _pick(self, candidates: _Candidates) -> _Block:
        """Pick among candidates for as long as no token outside can be better."""
        chosen, bar, rival, soon = candidates
        where = torch.from_numpy(chosen)
        residual = self.features.block(where, torch.from_numpy(soon))
        depth = len(self.subspace)
        if depth:
            past = self.factor[:depth, where]
            residual = torch.addmm(residual, past.T, past, alpha=-1)
        gram: Floats = residual.numpy()
        energy, worth = self.energy[chosen], self.worth[chosen]
        most = min(len(chosen), self.steps - len(self.order))
        factor = np.empty((most, len(chosen)), dtype=gram.dtype)
        square = np.empty(len(chosen), dtype=gram.dtype)
        spanning: list[int] = []
        picks: list[int] = []
        score = energy * worth
        check = gram.dtype == np.float32
        while len(picks) < most:
            if self.forced is not None:
                pick, self.forced = int(np.searchsorted(chosen, self.forced)), None
                own = float(energy[pick])
            else:
                pick = int(score.argmax())
                own, best = float(energy[pick]), float(score[pick])
                if own <= self.tolerance or best <= 0:
                    # Only now can an exhausted or a picked token stand in front: leave them out.
                    live = energy > self.tolerance
                    if not live.any():
                        break
                    pick = int(np.where(live, score, -np.inf).argmax())
                    own, best = float(energy[pick]), float(score[pick])
                if best < bar or (best == bar and chosen[pick] > rival):
                    break
                if check and own < SAFE_PIVOT:
                    return _Block.of(chosen, picks, spanning, factor, safe=False)
            picks.append(pick)
            if own > self.tolerance:
                column = factor[len(spanning)]
                if spanning:
                    np.dot(factor[: len(spanning), pick], factor[: len(spanning)], out=column)
                    np.subtract(gram[pick], column, out=column)
                    column *= 1 / math.sqrt(own)
                else:
                    np.multiply(gram[pick], 1 / math.sqrt(own), out=column)
                spanning.append(pick)
                np.multiply(column, column, out=square)
                energy -= square
            energy[pick] = -1  # below every tolerance from here on
            np.multiply(energy, worth, out=score)
        return _Block.of(chosen, picks, spanning, factor, safe=True)

    def _project(self, depth: int, block: _Block) -> None:
        """Bring all tokens up to date with a block of picks."""
        where = torch.from_numpy(block.spanning)
        columns = self.features.columns(where)
        if depth:
            past = self.factor[:depth]
            columns.addmm_(past[:, where].T, past, alpha=-1)
        lower = torch.from_numpy(np.ascontiguousarray(block.triangle.T)).tril_()
        added = self.factor[depth : depth + len(block.spanning)]
        torch.linalg.solve_triangular(lower, columns, upper=False, out=added)
        self.energy -= added.square().sum(dim=0).numpy()

    def _project_again(self) -> None:
        """Build the factor of this pass anew, in the features' present precision."""
        where = torch.tensor(self.subspace, dtype=torch.int64)
        columns = self.features.columns(where)
        lower = torch.linalg.cholesky(columns[:, where])
        self.factor = torch.empty(self.steps, len(self.worth), dtype=self.features.dtype)
        added = self.factor[: len(where)]
        torch.linalg.solve_triangular(lower, columns, upper=False, out=added)
        energy = (self.features.norms > 0).to(self.features.dtype) - added.square().sum(dim=0)
        self.energy = energy.numpy()
        self.energy[self.order] = -np.inf
