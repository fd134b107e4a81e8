"""What 95 % intervals over images cover, and how often a report of equal policies says otherwise.

    python -m benchmarks.intervals                # two to three minutes on one core
    python -m benchmarks.intervals --draws 300    # a first look

Scores and paired differences are drawn as studies have them: 0 or 1, one or eight questions an
image, questions about one image alike. The first table is the share of intervals that hold the
true mean, for each way of making them; the second the share of whole reports, of four budgets with
ten policies each that are all as good as the unpruned model, in which any verdict is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from tuner.results.statistics import Intervals, mean_interval
from tuner.results.verdicts import Pair, judge

Floats = npt.NDArray[np.float64]
Ends = tuple[Floats, Floats]
IMAGES = (5, 20, 38, 125, 500)
QUESTIONS = (1, 8)
RESAMPLES = 999
_ALIKE = 0.15  # correlation of two questions about one image
_BUDGETS, _BASELINES, _SEARCHED = 4, 8, 2


@dataclass(frozen=True)
class Case:
    """What is drawn.

    Attributes:
        name: Shown in the table.
        paired: Whether it is a difference.
        up: Probability of a 1.
        down: Probability of a -1.
    """

    name: str
    paired: bool
    up: float
    down: float = 0.0

    def draw(self, rng: np.random.Generator, draws: int, images: int, questions: int) -> Floats:
        """Draw scores, shape (draws, images, questions)."""
        share, scale = self.up + self.down, 1 / _ALIKE - 1
        chance = rng.beta(share * scale, (1 - share) * scale, (draws, images, 1))
        hit = rng.random((draws, images, questions)) < chance
        sign = np.where(rng.random(hit.shape) < self.up / share, 1.0, -1.0)
        return np.where(hit, sign, 0.0)


CASES = (
    Case("score, mean .93", paired=False, up=0.93),
    Case("score, mean .65", paired=False, up=0.65),
    Case("difference, 1.5 % flip", paired=True, up=0.005, down=0.01),
    Case("difference, 4 % flip", paired=True, up=0.01, down=0.03),
    Case("difference, 15 % flip", paired=True, up=0.05, down=0.10),
)


def percentile(x: Floats, means: Floats, errors: Floats) -> Ends:
    """Quantiles of the resampled means."""
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def plain_t(x: Floats, means: Floats, errors: Floats) -> Ends:
    """T on the cluster-robust standard error."""
    reach = stdtrit(x.shape[1] - 1, 0.975) * x.std(axis=1, ddof=1) / np.sqrt(x.shape[1])
    return x.mean(axis=1) - reach, x.mean(axis=1) + reach


def bootstrap_t(x: Floats, means: Floats, errors: Floats) -> Ends:
    """Quantiles of the resampled t; where a resample has no spread its t is 0 or infinite."""
    centre, error = x.mean(axis=1), x.std(axis=1, ddof=1) / np.sqrt(x.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num((means - centre) / errors, nan=0.0, posinf=1e9, neginf=-1e9)
    low, high = np.quantile(t, [0.025, 0.975], axis=0)
    return centre - high * error, centre - low * error


def bca(x: Floats, means: Floats, errors: Floats) -> Ends:
    """Bias-corrected and accelerated; of a mean the acceleration is its skewness."""
    centre, count = x.mean(axis=1), x.shape[1]
    below = (means < centre - 1e-12).mean(axis=0) + (abs(means - centre) <= 1e-12).mean(axis=0) / 2
    bias = ndtri(np.clip(below, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))
    off = x - centre[:, None]
    width = np.maximum((off**2).mean(axis=1), 1e-14)
    bend = (off**3).mean(axis=1) / width**1.5 / (6 * np.sqrt(count))
    ranked = np.sort(means, axis=0)
    ends = []
    for level in (0.025, 0.975):
        z = bias + ndtri(level)
        place = ndtr(bias + z / (1 - bend * z)) * (len(ranked) - 1)
        ends.append(ranked[np.round(place).astype(int), np.arange(len(x))])
    return ends[0], ends[1]


BOOTSTRAPS: dict[str, Callable[[Floats, Floats, Floats], Ends]] = {
    "percentile": percentile,
    "BCa": bca,
    "bootstrap-t": bootstrap_t,
    "t": plain_t,
}


def coverage(case: Case, images: int, questions: int, draws: int, seed: int) -> dict[str, float]:
    """Return what each way covers."""
    rng = np.random.default_rng(seed)
    scores = case.draw(rng, draws, images, questions)
    truth = case.up - case.down
    x = scores.mean(axis=2)
    # one set of resamples serves all draws
    counts = rng.multinomial(images, [1 / images] * images, size=RESAMPLES).astype(float)
    means = counts @ x.T / images
    spread = np.maximum(counts @ (x**2).T / images - means**2, 0.0)
    errors = np.sqrt(np.where(spread < 1e-14, 0.0, spread) / (images - 1))
    found = {}
    for name, way in BOOTSTRAPS.items():
        low, high = way(x, means, errors)
        found[name] = float(((low <= truth + 1e-12) & (truth - 1e-12 <= high)).mean())
    labels = np.repeat(np.arange(images), questions)
    other = np.zeros(len(labels)) if case.paired else None
    ours = [mean_interval(row, other, labels) for row in scores.reshape(draws, -1)]
    found["t, one flip added"] = float(np.mean([i.low <= truth <= i.high for i in ours]))
    return found


def equal_policies(rng: np.random.Generator, images: int, questions: int) -> Floats:
    """Draw 0/1 scores of policies that are equally good, the first unpruned: (P, N)."""

    def normal(*policies: int) -> Floats:
        of_image = rng.normal(size=(*policies, images, 1))
        return np.asarray(_ALIKE**0.5 * of_image + (1 - _ALIKE) ** 0.5 * rng.normal(
            size=(*policies, images, questions)
        ))  # fmt: skip

    policies = 1 + _BUDGETS * (_BASELINES + _SEARCHED)
    own = rng.uniform(0.02, 0.2, (policies, 1, 1))  # how far a policy goes its own way
    latent = np.sqrt(1 - own) * normal() + np.sqrt(own) * normal(policies)
    return (latent < ndtri(0.93)).astype(float).reshape(policies, -1)


def pairs_of(scores: Floats) -> dict[tuple[int, int], Pair]:
    """Pair the policies as a report does: all with unpruned, what was searched with baselines."""
    pairs = {(i, 0): Pair(scores[i], scores[0], "") for i in range(1, len(scores))}
    for budget in range(_BUDGETS):
        first = 1 + budget * (_BASELINES + _SEARCHED)
        baselines = range(first, first + _BASELINES)
        for i in range(first + _BASELINES, first + _BASELINES + _SEARCHED):
            pairs |= {(i, j): Pair(scores[i], scores[j], "") for j in baselines}
    return pairs


def max_t(differences: Floats, rng: np.random.Generator) -> bool:
    """Say whether any |t| beats the 95 % quantile of the largest, by a multiplier bootstrap.

    Args:
        differences: Mean difference of each image, shape (P, G).
        rng: Draws the multipliers.
    """
    count = differences.shape[1]
    centred = differences - differences.mean(axis=1, keepdims=True)
    error = np.maximum(differences.std(axis=1, ddof=1) / np.sqrt(count), 1e-12)
    draws = rng.normal(size=(RESAMPLES, count)) @ centred.T / count / error
    limit = np.quantile(abs(draws).max(axis=1), 0.95)
    return bool((abs(differences.mean(axis=1)) / error).max() > limit)


def false_reports(images: int, questions: int, draws: int, seed: int) -> dict[str, float]:
    """Return the share of reports of equal policies with a wrong verdict, by way of judging."""
    rng = np.random.default_rng(seed)
    labels = [str(i) for i in np.repeat(np.arange(images), questions)]
    intervals = Intervals(labels)
    counts = rng.multinomial(images, [1 / images] * images, size=RESAMPLES).astype(float)
    wrong: dict[str, list[bool]] = {}
    for _ in range(draws):
        pairs = pairs_of(equal_policies(rng, images, questions))
        judged = judge(pairs, intervals)
        rows = np.array([pair.scores - pair.other for pair in pairs.values()])
        x = rows.reshape(len(rows), images, questions).mean(axis=2)
        low, high = percentile(x, counts @ x.T / images, x)
        said = {
            "percentile, each alone": bool(((low > 0) | (high < 0)).any()),
            "t, each alone": any(c.low > 0 or c.high < 0 for c in judged.values()),
            "max-t": max_t(x, rng),
            "Holm": any(c.verdict in ("better", "worse") for c in judged.values()),
        }
        for name, value in said.items():
            wrong.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in wrong.items()}


def table(first: str, names: list[str], rows: list[tuple[str, dict[str, float]]]) -> None:
    """Print a table in Markdown, in percent."""
    print("| " + " | ".join([first, *names]) + " |")
    print("| --- |" + " ---: |" * len(names))
    for label, found in rows:
        print("| " + " | ".join([label, *(f"{100 * found[n]:.1f}" for n in names)]) + " |")
    print(flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=2000, help="draws of each line of coverage")
    parser.add_argument("--reports", type=int, default=400, help="reports of each line")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = [*BOOTSTRAPS, "t, one flip added"]
    for questions in QUESTIONS:
        rows = [
            (f"{case.name}; {n} images", coverage(case, n, questions, args.draws, args.seed))
            for case in CASES
            for n in IMAGES
        ]
        table(f"covered, %; questions an image: {questions}", names, rows)
    rows = [
        (f"{n} images, questions an image: {questions}",
         false_reports(n, questions, args.reports, args.seed))
        for questions in QUESTIONS
        for n in IMAGES
    ]  # fmt: skip
    table("reports with a wrong verdict, %", list(rows[0][1]), rows)


if __name__ == "__main__":
    main()
