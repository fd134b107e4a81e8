"""Which sampler, how many trials, which choosing rule? Judged by what the choice truly scores.

    python -m benchmarks.choosing --count 30 --log /tmp/tpe.jsonl           # 30 s a replay
    python -m benchmarks.choosing --samplers random --log /tmp/rules.jsonl  # 1 s a replay

Each replay draws a tune split from the table of nano-llava, searches, draws the alpha curve of what
leads, and chooses a setting at each budget. What counts is the chosen setting's mean over the whole
table. Two kinds of tune split: 300 samples on 38 images, and 300 images with one question each.
Printed are points (hundredths of the score) with standard errors over replays, differences from
what is shipped paired by replay.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.former import near_tie
from benchmarks.replay import (
    SAMPLERS,
    Candidates,
    Draw,
    Grid,
    Rule,
    Tried,
    choose,
    draw,
    first_samples,
)
from benchmarks.replays import logged, replays
from benchmarks.table import Floats, Ints, Table
from tuner.search.choose import Candidate, choose_setting

BUDGETS = (98, 64, 43, 22, 11, 6)
TUNE = 300
DESIGNS = {"38 images": (38, 8), "300 images": (300, 1)}
"""Images and questions of each, cut to 300 samples."""
TRIALS = (24, 64)
SHIPPED = 64  # trials of the shipped studies
_FIT = (250, 8)
_TOP = 4  # candidates that are scored again
_LENGTH = 1.5  # of the smooth curve over alpha, in steps of the grid
_ACROSS = 0.5  # correlation of seed strategies under it


# -- rules ---------------------------------------------------------------------------------


def best_mean(candidates: Candidates) -> int:
    """The best on average; ties go to the earlier."""
    return int(candidates.rows[candidates.means.argmax()])


def shipped(candidates: Candidates) -> int:
    """The tuner's own."""
    table = candidates.table
    found = [
        Candidate(table.settings[row], scores)
        for row, scores in zip(candidates.rows, candidates.scores, strict=True)
    ]
    return table.row(choose_setting(found).setting)


def shrunk(candidates: Candidates) -> int:
    """The best after shrinking each mean towards that of all, knowing how they vary together."""
    return _posterior(candidates, np.eye(len(candidates.rows)))


def smooth(candidates: Candidates) -> int:
    """The best of a smooth curve over alpha for each seed strategy (a Gaussian process)."""
    places, strategies = _places(candidates)
    apart = (places[:, None] - places) / _LENGTH
    same = strategies[:, None] == strategies
    return _posterior(candidates, np.exp(-0.5 * apart**2) * np.where(same, 1.0, _ACROSS))


def parabola(candidates: Candidates) -> int:
    """The best of a parabola over alpha, for the seed strategy of the best on average."""
    places, strategies = _places(candidates)
    own = np.flatnonzero(strategies == strategies[candidates.means.argmax()])
    if len(own) < 4:
        return best_mean(candidates)
    fitted = np.polyval(np.polyfit(places[own], candidates.means[own], 2), places[own])
    return int(candidates.rows[own[fitted.argmax()]])


RULES: dict[str, Rule] = {
    "shipped": shipped,
    "best mean": best_mean,
    "near tie": near_tie,
    "shrunk": shrunk,
    "smooth": smooth,
    "parabola": parabola,
}


def _places(candidates: Candidates) -> tuple[Ints, Ints]:
    """Place of each candidate's alpha on the table's grid, and number of its seed strategy."""
    settings = candidates.table.settings
    grid = [settings[row] for row in candidates.table.rows("resprune")]
    alphas = sorted({s.option("alpha") for s in grid})
    strategies = sorted({s.option("seed_strategy") for s in grid})
    own = [settings[row] for row in candidates.rows]
    return (
        np.array([alphas.index(s.option("alpha")) for s in own]),
        np.array([strategies.index(s.option("seed_strategy")) for s in own]),
    )


def _posterior(candidates: Candidates, prior: Floats) -> int:
    """The best posterior mean under a normal prior of this shape, its size by moments.

    Source: empirical Bayes, Efron and Morris 1973, with the covariance of the means over images.
    """
    scores, images = candidates.scores, candidates.tune.images
    count, n = scores.shape
    means = candidates.means - candidates.means.mean()
    residuals = scores - scores.mean(axis=0)
    residuals -= residuals.mean(axis=1, keepdims=True)
    sums = np.zeros((count, int(images.max()) + 1))
    for c, row in enumerate(residuals):
        sums[c] = np.bincount(images, weights=row)
    noise = sums @ sums.T / n**2
    centre = np.eye(count) - 1 / count
    shape = centre @ prior @ centre
    luck = float(np.trace(noise))
    size = max(float(means @ means) - luck, 0.1 * luck) / float(np.trace(shape))
    jitter = 1e-9 + 1e-6 * luck
    found = size * shape @ np.linalg.solve(size * shape + noise + jitter * np.eye(count), means)
    return int(candidates.rows[found.argmax()])


def scored_again(
    space: Grid, table: Table, tried: Tried, tune: Draw, fresh: Callable[[int], Draw]
) -> dict[int, int]:
    """Score all candidates on half the split, and the best few on fresh images, at equal cost.

    Args:
        space: The space.
        table: The table.
        tried: What was tried.
        tune: The tune split, of which the first half is used.
        fresh: Draws a split of so many samples.

    Returns:
        Row by budget.
    """
    half = first_samples(tune, len(tune.samples) // 2)
    chosen = {}
    for budget, first in choose(space, table, tried, half, best_mean).items():
        strategy = space.strategies.index(table.settings[first].option("seed_strategy"))
        rows = np.array(
            list(dict.fromkeys([*tried[budget], *space.rows(budget)[:, strategy].tolist()]))
        )
        before = Candidates(table, rows, half).means
        top = np.argsort(-before, kind="stable")[:_TOP]
        again = fresh(len(rows) * (len(tune.samples) - len(half.samples)) // len(top))
        after = Candidates(table, rows[top], again).means
        total = before[top] * len(half.samples) + after * len(again.samples)
        chosen[budget] = int(rows[top[total.argmax()]])
    return chosen


def by_fit_split(space: Grid, table: Table, chosen: dict[int, int], fit: Draw) -> dict[int, int]:
    """Take the best alpha of the fit split, which scores all of them for the predictor anyway."""
    found = {}
    for budget, row in chosen.items():
        strategy = space.strategies.index(table.settings[row].option("seed_strategy"))
        found[budget] = best_mean(Candidates(table, space.rows(budget)[:, strategy], fit))
    return found


# -- replays -------------------------------------------------------------------------------


def replay(table: Table, samplers: Sequence[str], number: int) -> dict[str, Any]:
    """Search and choose every way on one draw of each kind of tune split."""
    space = Grid(table, BUDGETS)
    found: dict[str, Any] = {}
    for design, (images, questions) in DESIGNS.items():
        rng = np.random.default_rng([number, images])
        tune = first_samples(draw(table, images, questions, rng), TUNE)
        scores: Floats = table.right[:, tune.samples].mean(axis=1)
        ways: dict[str, dict[int, int]] = {}
        everything = {b: space.rows(b).ravel().tolist() for b in BUDGETS}
        ways["whole grid"] = choose(space, table, everything, tune, shipped)
        ways["whole grid, best mean"] = choose(space, table, everything, tune, best_mean)
        for name in samplers:
            for trials in TRIALS:
                tried = SAMPLERS[name](space, table, scores, trials, number)
                way = f"{name} {trials}"
                ways[way] = choose(space, table, tried, tune, shipped)
                ways[f"{way}, no curve"] = choose(space, table, tried, tune, shipped, curves=False)
                if (name, trials) != (samplers[0], SHIPPED):
                    continue
                for rule_name, rule in RULES.items():
                    ways[rule_name] = choose(space, table, tried, tune, rule)
                fresh = partial(_samples, table, questions, rng)
                ways["top few again"] = scored_again(space, table, tried, tune, fresh)
                fit = draw(table, *_FIT, rng)
                ways["alpha by fit split"] = by_fit_split(space, table, ways["shipped"], fit)
        found[design] = {way: list(chosen.values()) for way, chosen in ways.items()}
    return found


def _samples(table: Table, questions: int, rng: np.random.Generator, count: int) -> Draw:
    return first_samples(draw(table, -(-count // questions), questions, rng), count)


def summary(table: Table, found: Sequence[dict[str, Any]]) -> str:
    """Tabulate what the choices truly score, by way and budget."""
    lines = []
    best = [max(table.truth[row] for row in table.rows("resprune", b)) for b in BUDGETS]
    for design in DESIGNS:
        ways = list(found[0][design])
        true = {
            way: 100 * table.truth[np.array([each[design][way] for each in found])] for way in ways
        }
        lines += [
            f"{TUNE} samples, {design}, {len(found)} replays; unpruned "
            f"{100 * table.truth[table.unpruned]:.2f}, best setting of the grid "
            + ", ".join(f"{100 * b:.2f}" for b in best),
            "",
            "| way | mean | " + " | ".join(map(str, BUDGETS)) + " | against shipped |",
            "|---" * (len(BUDGETS) + 3) + "|",
        ]
        for way in ways:
            means = true[way].mean(axis=0)
            gain = (true[way] - true["shipped"]).mean(axis=1)
            error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
            cells = " | ".join(f"{m:.2f}" for m in means)
            lines.append(
                f"| {way} | {means.mean():.3f} | {cells} | {gain.mean():+.3f} +- {error:.3f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run the comparison."""
    import optuna

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--log", type=Path, required=True, help="one JSON line a replay")
    parser.add_argument("--summary", action="store_true", help="sum up the log; run nothing")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--table", type=Path, help="default: the shipped one")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table.shipped() if args.table is None else Table.load(args.table)
    done = logged(args.log) if args.summary else None
    print(
        summary(table, done or replays(args.log, args.count, partial(replay, table, args.samplers)))
    )


if __name__ == "__main__":
    main()
