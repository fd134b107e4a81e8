"""The guard of the alpha predictor, replayed on a table: see ``benchmarks/promises.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.former import former_guard
from benchmarks.table import Floats, Ints, Table
from benchmarks.wilson import share
from resprune import NounExtractor
from resprune.alpha import Arm, question_form
from resprune.budget import Budget, Count
from tuner.alpha import fit_alpha
from tuner.results.statistics import standard_error

FIT = (250, 8)  # images and questions of each: the 2,000 samples of the shipped studies
COMPARED = 100  # replays that fit under the former guard too
TRUE_EVERY = 4  # of those, of which one fits the true features too


class Guards:
    """Fits on images of a table.

    The arms are the table's alphas, with the seed strategy of the setting that is truly best at a
    budget.

    Args:
        table: The table.
        budgets: Counts of tokens.
    """

    def __init__(self, table: Table, budgets: Sequence[int]) -> None:
        self.table = table
        self.budgets = budgets
        extractor = NounExtractor()
        self.forms = [question_form(q, extractor.content_tags(q)) for q in table.questions]
        self._rows = {budget: self._arms(budget) for budget in budgets}
        first = next(iter(self._rows.values()))
        self.arms: list[Arm] = [
            {"alpha": float(table.settings[row].option("alpha"))} for row in first
        ]

    def _arms(self, budget: int) -> Ints:
        settings = self.table.settings
        rows = self.table.rows("resprune", budget)
        best = settings[max(rows, key=lambda row: float(self.table.truth[row]))]
        own = [
            row
            for row in rows
            if settings[row].option("seed_strategy") == best.option("seed_strategy")
        ]
        return np.array(sorted(own, key=lambda row: float(settings[row].option("alpha"))))

    def losses(self, samples: Ints) -> dict[Budget, Floats]:
        """Return the losses of the arms by budget, shape (n, A)."""
        return {
            Count(count=b): 1.0 - self.table.right[np.ix_(rows, samples)].T.astype(np.float64)
            for b, rows in self._rows.items()
        }

    def replay(self, number: int) -> dict[str, Any]:
        """Draw a fit split, and fit permuted features; at times the true ones too.

        Folds keep the table's image whole, so that one drawn twice does not tell on itself.
        """
        rng = np.random.default_rng([number, 3])
        count = len(self.table.samples_of)
        drawn = rng.integers(count, size=FIT[0])
        samples = np.concatenate([self.table.samples_of[image] for image in drawn])
        features = self.table.features[samples]
        permuted = features[rng.permutation(len(samples))]
        found: dict[str, Any] = {"permuted": self._fit(permuted, samples, number, None)}
        if number < COMPARED and number % TRUE_EVERY == 0:
            left = np.setdiff1d(np.arange(count), drawn)
            rest = np.concatenate([self.table.samples_of[image] for image in left])
            found["true"] = self._fit(features, samples, number, rest)
        return found

    def _fit(
        self, features: Floats, samples: Ints, seed: int, rest: Ints | None
    ) -> dict[str, dict[str, Any]]:
        """Fit; by budget whether it was adopted under each guard, and its gain on the rest."""
        losses = self.losses(samples)
        smooth: dict[Budget, Floats] = {
            Count(count=b): -self.table.likelihoods[np.ix_(rows, samples)].T
            for b, rows in self._rows.items()
        }
        images = np.unique(self.table.images[samples], return_inverse=True)[1].astype(np.int64)
        former: dict[Budget, bool] = {}
        if seed < COMPARED:
            former = former_guard(features, losses, smooth, self.arms, images, seed)
        fit = fit_alpha(
            features,
            losses,
            self.arms,
            images,
            forms=[self.forms[i] for i in samples],
            seed=seed,
            surrogate=smooth,
        )
        found: dict[str, dict[str, Any]] = {}
        for budget in losses:
            adopted = fit.strengths[budget] > 0
            found[str(budget)] = {"now": adopted}
            if budget in former:
                found[str(budget)]["former"] = former[budget]
            if rest is None or not adopted:
                continue
            loss = self.losses(rest)[budget]
            forms = [self.forms[i] for i in rest]
            arms = fit.predictor.arms_for(self.table.features[rest], forms, budget)
            gain = loss[:, fit.predictor.fallback(budget)] - loss[np.arange(len(rest)), arms]
            error = standard_error(gain, None, self.table.images[rest])
            found[str(budget)] |= {"gain": float(gain.mean()), "error": error}
        return found


def summary(budgets: Sequence[int], found: Sequence[Mapping[str, Any]]) -> str:
    """Tabulate what was adopted, falsely and truly."""
    permuted = [each["permuted"] for each in found]
    compared = [fit for fit in permuted if all("former" in row for row in fit.values())]
    true = [each["true"] for each in found if "true" in each]
    lines = [
        f"{len(permuted)} fits of permuted features, {len(compared)} of them under the former "
        f"guard too, {len(true)} of the true ones",
        "",
        "| budget | falsely adopted, former guard | now | adopted on true features, former | now "
        "| gain on images left out | truly loses |",
        "|---|---|---|---|---|---|---|",
    ]

    def adopted(fits: Sequence[Mapping[str, Any]], which: str, keys: Sequence[str]) -> str:
        return share(sum(any(fit[key][which] for key in keys) for fit in fits), len(fits))

    every = [str(budget) for budget in budgets]
    for name, keys in (("any", every), *((key, [key]) for key in every)):
        gains = [fit[key]["gain"] for fit in true for key in keys if "gain" in fit[key]]
        mean = "none adopted"
        if gains:
            mean = f"{100 * float(np.mean(gains)):+.2f} points"
        lines.append(
            f"| {name} | {adopted(compared, 'former', keys)} | {adopted(permuted, 'now', keys)} "
            f"| {adopted(true, 'former', keys)} | {adopted(true, 'now', keys)} | {mean} "
            f"| {share(sum(gain < 0 for gain in gains), len(gains))} |"
        )
    return "\n".join(lines)
