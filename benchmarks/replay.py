"""Studies replayed on a table of outcomes: search, choice and certificate in milliseconds.

The table is the population. A replay draws images from it, with replacement, as a study draws
images from the world; what the chosen setting truly scores is its mean over the whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from benchmarks.table import Floats, Ints, Table
from resprune.budget import Count
from resprune.setting import Setting, paper_default
from tuner.search.objectives import Pareto
from tuner.search.section import SearchSection
from tuner.search.space import Params, Space
from tuner.search.trials import MethodSearch

FAMILY = "llava"  # whose paper default is tried first


class Draw(NamedTuple):
    """Samples of one split.

    Attributes:
        samples: (n,) samples of the table.
        images: (n,) the draw each came with: an image drawn twice counts as two, as in the world.
    """

    samples: Ints
    images: Ints


def draw(table: Table, images: int, questions: int, rng: np.random.Generator) -> Draw:
    """Draw a split.

    Args:
        table: The population.
        images: How many images, with replacement.
        questions: Questions of each, without replacement.
        rng: Draws.

    Returns:
        The split.
    """
    found = [
        rng.choice(table.samples_of[image], questions, replace=False)
        for image in rng.integers(len(table.samples_of), size=images)
    ]
    return Draw(np.concatenate(found), np.repeat(np.arange(images), questions))


def first_samples(split: Draw, count: int) -> Draw:
    """Cut a split to its first samples."""
    return Draw(split.samples[:count], split.images[:count])


class Grid(Space):
    """ResPrune's settings of a table as the tuner's search space.

    Alpha is drawn as a place on the table's grid.

    Args:
        table: The table.
        budgets: Counts of tokens, each in the table.
    """

    def __init__(self, table: Table, budgets: Sequence[int]) -> None:
        counts = tuple(Count(count=budget) for budget in budgets)
        super().__init__(SearchSection(budget=counts), "resprune", counts)
        rows = [table.settings[row] for row in table.rows("resprune")]
        self.alphas = sorted({float(s.option("alpha")) for s in rows})
        self.strategies = sorted({str(s.option("seed_strategy")) for s in rows})
        self._table = table
        self._rows = {
            (s.budget.count, s.option("alpha"), s.option("seed_strategy")): table.row(s)  # type: ignore[union-attr]
            for s in rows
        }

    @property
    def size(self) -> int:
        """How many settings there are at one budget."""
        return len(self.alphas) * len(self.strategies)

    def rows(self, budget: int) -> Ints:
        """Return the table's rows at one budget, shape (alphas, strategies)."""
        return np.array([[self._rows[budget, a, s] for s in self.strategies] for a in self.alphas])

    def distributions(self) -> dict[str, Any]:
        """Return the space as Optuna's distributions."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        return {
            "alpha": IntDistribution(0, len(self.alphas) - 1),
            "seed_strategy": CategoricalDistribution(self.strategies),
            "budget": CategoricalDistribution(list(self.budgets)),
        }

    def setting(self, params: Mapping[str, Any]) -> Setting:
        """Return the setting that a trial's parameters stand for."""
        place = (params["budget"], self.alphas[params["alpha"]], params["seed_strategy"])
        return self._table.settings[self._rows[place]]

    def params(self, setting: Setting) -> Params | None:
        """Return the parameters of a trial that tries a setting of the table."""
        return {
            "alpha": self.alphas.index(setting.option("alpha")),
            "seed_strategy": setting.option("seed_strategy"),
            "budget": setting.budget.count,  # type: ignore[union-attr]
        }

    def paper(self, budget: int) -> Setting:
        """Return the paper's default at one budget."""
        return paper_default(FAMILY, budget)


Tried = dict[int, list[int]]
"""Rows of the table that were tried, by budget, each once and in order."""
Sampler = Callable[[Grid, Table, Floats, int, int], Tried]
"""(space, table, (S,) mean tune scores, trials, seed) -> what was tried."""


def tpe(space: Grid, table: Table, scores: Floats, trials: int, seed: int) -> Tried:
    """Search as a study does: the tuner's own search and sampler, in memory."""
    budgets = list(space.budgets)
    first = [space.paper(budget) for budget in budgets]  # type: ignore[arg-type]
    search = MethodSearch("replay", space, Pareto(), seed, None, first)

    def evaluate(setting: Setting) -> tuple[float, int, float]:
        count: int = setting.budget.count  # type: ignore[union-attr]
        return float(scores[table.row(setting)]), count, float(count)

    for _ in range(trials):
        search.step(evaluate, None)
    tried: Tried = {budget: [] for budget in budgets}  # type: ignore[misc]
    for trial in search.trials():
        tried[trial.tokens].append(table.row(trial.setting))
    return {budget: list(dict.fromkeys(rows)) for budget, rows in tried.items()}


def random_search(space: Grid, table: Table, scores: Floats, trials: int, seed: int) -> Tried:
    """Try the paper's default and then settings at random, none twice."""
    rng = np.random.default_rng([seed, 1])
    return _dealt(space, table, trials, lambda rows: rng.permutation(rows.ravel()).tolist())


def grid_search(space: Grid, table: Table, scores: Floats, trials: int, seed: int) -> Tried:
    """Try the paper's default and then the grid from coarse to fine, whatever it scores."""
    places = _bisected(len(space.alphas))

    def order(rows: Ints) -> list[int]:
        return [int(row) for place in places for row in rows[place]]

    return _dealt(space, table, trials, order)


SAMPLERS: dict[str, Sampler] = {"tpe": tpe, "random": random_search, "grid": grid_search}


def _dealt(space: Grid, table: Table, trials: int, order: Callable[[Ints], list[int]]) -> Tried:
    found: Tried = {}
    for place, budget in enumerate(space.budgets):
        turns = len(range(place, trials, len(space.budgets)))
        first = table.row(space.paper(budget))  # type: ignore[arg-type]
        rows = list(dict.fromkeys([first, *order(space.rows(budget))]))  # type: ignore[arg-type]
        found[budget] = rows[:turns]  # type: ignore[index]
    return found


def _bisected(count: int) -> list[int]:
    """Order 0 .. count - 1 from coarse to fine: the middle, the middles of its halves, ..."""
    found, spans = [], [(0, count)]
    for low, high in spans:
        if low < high:
            middle = (low + high) // 2
            found.append(middle)
            spans += [(low, middle), (middle + 1, high)]
    return found


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a choosing rule sees of one budget.

    Attributes:
        table: The table.
        rows: (C,) rows of the candidates, distinct.
        tune: The split they are judged on.
    """

    table: Table
    rows: Ints
    tune: Draw

    @cached_property
    def scores(self) -> Floats:
        """(C, n) score of each candidate on each sample."""
        scores: Floats = self.table.right[np.ix_(self.rows, self.tune.samples)].astype(np.float64)
        return scores

    @cached_property
    def means(self) -> Floats:
        """(C,) mean scores."""
        means: Floats = self.scores.mean(axis=1)
        return means


Rule = Callable[[Candidates], int]
"""Candidates -> the table's row of the chosen one."""


def choose(
    space: Grid, table: Table, tried: Tried, tune: Draw, rule: Rule, *, curves: bool = True
) -> dict[int, int]:
    """Choose as a study does: among the trials, then among them and the alpha curve of the chosen.

    Args:
        space: The space.
        table: The table.
        tried: What was tried.
        tune: The tune split.
        rule: Chooses among candidates.
        curves: Whether the chosen setting's alpha curve joins the candidates.

    Returns:
        Row of the chosen setting by budget.
    """
    chosen = {}
    for budget, rows in tried.items():
        first = rule(Candidates(table, np.array(rows), tune))
        if curves:
            strategy = space.strategies.index(table.settings[first].option("seed_strategy"))
            curve = space.rows(budget)[:, strategy].tolist()
            joined = list(dict.fromkeys([*rows, *curve]))
            first = rule(Candidates(table, np.array(joined), tune))
        chosen[budget] = first
    return chosen
