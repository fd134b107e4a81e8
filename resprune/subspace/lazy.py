"""Lazy block greedy: the exact order of one image with few, large matrix products.

Within one pass of the expansion scores only fall. So among the ``m`` tokens of best score, picks
are exact as long as the best current score is above the best stale score outside. Then tokens are
brought up to date (a matrix product and a triangular solve), but only those whose stale score is
so high that they may be among the next candidates: for the others the stale score is bound enough.
Where the recurrence reads the (T, d) features once a pick, this reads a part of them once a block.

Where scores fall so fast that blocks make few picks, tokens are picked alone, as the recurrence
does.

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

_ALL_WITH_GRAM = 1024  # tokens that are all candidates where their inner products cost nothing
_FEWEST_CANDIDATES, _MOST_CANDIDATES_OF_FEW = 24, 64
_CANDIDATES_PER_ROOT = 2.4  # m ~ sqrt(T) balances the blocks (m^2 d) with the updates (T d a pick)

_AHEAD = 2  # candidates a pick that is still to be made
_PART = 0.5  # part of a block's candidates that must be up to date
_WIDE = 0.8  # part of the tokens from which gathering them costs more than taking all
# a block costs as much time as this many picks alone, and one more for so many candidates
_BLOCK, _CANDIDATES_PER_PICK = 4, 16
_RECENT = 3  # picks from which the fall of the scores is taken

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
        picks: Places of the tokens picked among the candidates.
        spanning: Those of them with energy.
        factor: Factor of the candidates, one row a spanning pick.
        energy: Residual energies of the candidates after the picks.
        safe: False if it stopped before a pick that is unsafe to divide by in float32.
    """

    picks: list[int]
    spanning: list[int]
    factor: Floats
    energy: Floats
    safe: bool


class _Candidates(NamedTuple):
    """Tokens to pick among, all up to date.

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
    """One expansion: what is kept, and how much of each token lies outside its span.

    ``depth`` says how many picks of this pass each token's factor and energy take account of. An
    energy that lags behind is an upper bound.
    """

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
        if not features.at_hand or count > _ALL_WITH_GRAM:
            self.candidates = max(
                _MOST_CANDIDATES_OF_FEW, int(_CANDIDATES_PER_ROOT * math.sqrt(count))
            )
        self.restart()

    def restart(self) -> None:
        """Forget the subspace: every token that is left has its full energy again."""
        count = len(self.worth)
        self.subspace: list[int] = []
        energy = (self.features.norms > 0).to(self.features.dtype).numpy()
        self.factor: Floats = np.zeros((self.steps, count), dtype=energy.dtype)
        self.triangle: Floats = np.zeros((self.steps, self.steps), dtype=energy.dtype)
        self.depth = np.zeros(count, dtype=np.int64)
        self.alone = not self.features.at_hand
        self.best: list[float] = []
        energy[self.order] = -np.inf
        self.energy: Floats = energy

    def extend(self) -> None:
        """Add one block of picks, or begin the next pass."""
        if self.alone and self._pick_alone():
            return
        self.alone = False
        candidates = self._candidates()
        if candidates is None:
            if self.subspace:
                self.restart()
            else:  # none but zero tokens are left
                rest = np.flatnonzero(~np.isneginf(self.energy))
                self.order.extend(rest[: self.steps - len(self.order)].tolist())
            return
        block = self._pick(candidates)
        chosen = candidates.chosen
        self.order.extend(chosen[block.picks].tolist())
        if len(self.order) >= self.steps:
            return
        depth, added = len(self.subspace), len(block.spanning)
        if (
            not self.features.at_hand
            and len(block.picks) < _BLOCK + len(chosen) / _CANDIDATES_PER_PICK
        ):
            self.alone, self.best = True, []
        if added:
            # The candidates went along with the picks; the others may stay behind.
            self.subspace.extend(chosen[block.spanning].tolist())
            self.factor[depth : depth + added, chosen] = block.factor
            rows = self.factor[: depth + added].take(self.subspace[depth:], axis=1)
            self.triangle[depth : depth + added, : depth + added] = np.tril(rows.T, depth)
            self.depth[chosen] = depth + added
            self.energy[chosen] = block.energy
        self.energy[chosen[block.picks]] = -np.inf
        if not block.safe:
            self.features = self.features.in_double()
            self._project_again()

    def _want(self) -> int:
        """How many candidates a block has."""
        if self.features.at_hand:
            return self.candidates
        left = self.steps - len(self.order)
        return min(self.candidates, max(_FEWEST_CANDIDATES, int(_AHEAD * left) + 1))

    def _pick_alone(self) -> bool:
        """Pick one token and update all others; False where a block is the better way."""
        live, depth = self.energy > self.tolerance, len(self.subspace)
        if not self.best and depth:  # else all went along with the last pick
            behind = np.flatnonzero(live & (self.depth < depth))
            if len(behind):
                self._refresh(behind)
                live = self.energy > self.tolerance
        score = np.full_like(self.worth, -np.inf)
        np.multiply(self.energy, self.worth, out=score, where=live)
        best = int(score.argmax())
        pick = best if self.forced is None else self.forced
        own = float(self.energy[pick])
        if own <= self.tolerance or self._block_pays(score[live]):
            return False
        if own < SAFE_PIVOT and self.energy.dtype == np.float32:
            self.features = self.features.in_double()
            self._project_again()
            return True
        self.forced = None
        column: Floats = self.features.column(pick).numpy()
        if depth:
            column -= np.dot(self.factor[:depth, pick], self.factor[:depth])
        column *= 1 / math.sqrt(own)
        self.factor[depth] = column
        self.triangle[depth, : depth + 1] = self.factor[: depth + 1, pick]
        self.energy -= np.square(column)
        self.energy[pick] = -np.inf
        self.depth[live] = depth + 1
        self.order.append(pick)
        self.subspace.append(pick)
        self.best.append(float(score[best]))
        return True

    def _block_pays(self, score: Floats) -> bool:
        """Whether a block is likely to make more picks than could be made alone in its time.

        It ends where the best score has fallen to that of the best token outside; scores are
        taken to fall as they did over the last picks.
        """
        want, recent = self._want(), self.best[-_RECENT:]
        if len(recent) < _RECENT:
            return False
        left = self.steps - len(self.order)
        cost = _BLOCK + want / _CANDIDATES_PER_PICK
        if left <= cost:
            return False
        if len(score) <= want:
            return True
        top = float(score.max())
        outside = -float(np.partition(-score, want)[want])
        if outside <= 0 or top >= recent[0]:
            return True
        picks = len(recent) * math.log(outside / top) / math.log(top / recent[0])
        return picks > cost

    def _candidates(self) -> _Candidates | None:
        """The best tokens by score then index, brought up to date; None if all are exhausted."""
        want = self._want()
        if self.forced is not None and self.depth[self.forced] < len(self.subspace):
            self._refresh(np.array([self.forced]))
        while True:
            live = np.flatnonzero(self.energy > self.tolerance)
            if not len(live) and self.forced is None:
                return None
            score = self.energy[live] * self.worth[live]
            fresh = self.depth[live] == len(self.subspace)
            if fresh.all():
                break
            # Tokens behind that may come before half as many candidates are caught up with.
            ready = score[fresh]
            enough = max(1, int(want * _PART))
            among = ready if len(ready) >= enough else score
            last = min(enough, len(among)) - 1
            edge = -np.partition(-among, last)[last]
            behind = live[~fresh & (score >= edge)]
            if not len(behind):
                break
            self._refresh(behind)
        inside, bar, rival = live, -np.inf, len(self.worth)
        soon = live[:0]
        if not fresh.all():
            bar = float(score[~fresh].max())
            rival = int(live[~fresh & (score == bar)][0])
            above = fresh & (score > bar)
            inside, score = live[above], score[above]
        if len(inside) > want:
            last = min(want + _SOON, len(inside) - 1)
            best = np.argpartition(-score, (want, last))
            lowest = score[best[want]]
            # Ties at the edge: the lowest indices go in, as they would be picked first.
            above, at = np.flatnonzero(score > lowest), np.flatnonzero(score == lowest)
            room = want - len(above)
            bar, rival = float(lowest), int(inside[at[room]])
            chosen = np.sort(np.concatenate((above, at[:room])))
            if self.features.at_hand:
                soon = inside[np.setdiff1d(best[: last + 1], chosen, assume_unique=True)]
            inside = inside[chosen]
        if self.forced is not None:
            inside = np.union1d(inside, [self.forced])
            soon = soon[soon != self.forced]
        return _Candidates(inside, bar, rival, soon)

    def _pick(self, candidates: _Candidates) -> _Block:
        """Pick among candidates for as long as no token outside can be better."""
        chosen, bar, rival, soon = candidates
        where = torch.from_numpy(chosen)
        residual = self.features.block(where, torch.from_numpy(soon))
        depth = len(self.subspace)
        if depth:
            past = torch.from_numpy(self.factor[:depth].take(chosen, axis=1))
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
        safe = True
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
                    safe = False
                    break
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
        return _Block(picks, spanning, factor[: len(spanning)], energy, safe)

    def _refresh(self, behind: Indices) -> None:
        """Bring tokens up to date with the picks of this pass."""
        now = len(self.subspace)
        if self.features.at_hand:
            behind = np.flatnonzero(~np.isneginf(self.energy) & (self.depth < now))
        depths = self.depth[behind]
        for depth in sorted(set(depths.tolist())):
            tokens = behind[depths == depth]
            where, picked = torch.from_numpy(tokens), torch.tensor(self.subspace[depth:])
            if self.features.at_hand or len(tokens) > _WIDE * len(self.worth):
                columns = self.features.columns(picked).index_select(1, where)
            else:
                columns = self.features.between(picked, where)
            if depth:
                past = torch.from_numpy(self.factor[:depth].take(tokens, axis=1))
                before = torch.from_numpy(self.triangle[depth:now, :depth])
                columns.addmm_(before, past, alpha=-1)
            lower = torch.from_numpy(self.triangle[depth:now, depth:now])
            added = torch.linalg.solve_triangular(lower, columns, upper=False).numpy()
            self.factor[depth:now, tokens] = added
            self.energy[tokens] -= np.einsum("ij,ij->j", added, added)
        self.depth[behind] = now

    def _project_again(self) -> None:
        """Build the factor of this pass anew, in the features' present precision."""
        where = torch.tensor(self.subspace, dtype=torch.int64)
        depth, count = len(where), len(self.worth)
        columns = self.features.columns(where)
        lower = torch.linalg.cholesky(columns[:, where])
        added = torch.linalg.solve_triangular(lower, columns, upper=False)
        self.factor = np.empty((self.steps, count), dtype=added.numpy().dtype)
        self.factor[:depth] = added.numpy()
        self.triangle = np.zeros((self.steps, self.steps), dtype=self.factor.dtype)
        self.triangle[:depth, :depth] = lower.numpy()
        energy = (self.features.norms > 0).to(self.features.dtype) - added.square().sum(dim=0)
        self.energy = energy.numpy()
        self.energy[self.order] = -np.inf
        self.depth[:] = depth
