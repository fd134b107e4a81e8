"""Does a budget that follows the image beat a count, at the same mean count?

    python -m benchmarks.energy_budgets nano-llava --runs runs

For the setting that a finished study chose at each of its count budgets: the energy at which the
mean count over the report split is the same is found by bisection (counts look at no answer), both
are scored there, and the paired difference is printed with its 95 % interval over images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resprune import methods
from resprune.budget import Count, Energy
from resprune.plan import inputs_of, plan_images
from resprune.setting import Setting
from resprune.subspace.energy import energy_curve
from tuner.results.schema import Results
from tuner.scoring.split import Split
from tuner.stages.opened import OpenedStudy
from tuner.study import find_study, load_study

_ROUNDS = 30  # of the bisection


def curves_of(split: Split, setting: Setting) -> list[list[float]]:
    """Return the share of energy left after each pick of every sample, to the setting's count."""
    found = []
    method = methods.get(setting.method)
    for i in range(len(split)):
        visual, prompt = split.visual(i), split.prompt(i)
        order = plan_images([visual], [prompt], [setting], [""])[0].order
        assert order is not None
        weights = method.weights(inputs_of(visual, prompt, setting), setting.options)
        found.append(energy_curve(visual.tokens, order, weights).tolist())
    return found


def equal_energy(
    curves: Sequence[Sequence[float]], tokens: Sequence[int], count: int, most: int, least: int
) -> Energy:
    """Return the energy budget whose mean count over images is nearest to ``count``."""
    low, high = 1e-6, 1.0 - 1e-6
    for _ in range(_ROUNDS):
        middle = (low * high) ** 0.5
        budget = Energy(energy=middle, most=most, least=least)
        kept = [budget.of(t, curve) for t, curve in zip(tokens, curves, strict=True)]
        if np.mean(kept) > count:
            low = middle
        else:
            high = middle
    return Energy(energy=high, most=most, least=least)


def main() -> None:
    """Run the comparison on one study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", help="a study's name or file; finished in RUNS")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    study = load_study(find_study(args.study))
    run_dir = args.runs / study.study.name
    chosen = [each.setting for each in Results.load(run_dir).chosen]
    with OpenedStudy(study, run_dir) as opened:
        split, intervals = opened.split("report"), opened.intervals("report")
        tokens = [len(split.visual(i).tokens) for i in range(len(split))]
        print("count  energy  mean count  10 % to 90 %  score by count  by energy  difference")
        for setting in chosen:
            if not isinstance(setting.budget, Count) or not methods.get(setting.method).nested:
                continue
            count = setting.budget.count
            most, least = min(3 * count, min(tokens)), max(1, count // 3)
            curves = curves_of(split, setting.at(most))
            budget = equal_energy(curves, tokens, count, most, least)
            follows = setting.at(budget)
            kept = [len(plan.kept) for plan in split.plans([follows])[0]]
            by_count, by_energy = split.scores([setting, follows])
            gain = intervals.of(by_energy, by_count)
            spread = np.quantile(kept, [0.1, 0.9])
            print(
                f"{count:5d}  {budget.energy:.4f}  {np.mean(kept):10.2f}  "
                f"{spread[0]:5.0f} to {spread[1]:3.0f}  {by_count.mean():14.4f}  "
                f"{by_energy.mean():9.4f}  {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
