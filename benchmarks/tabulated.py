"""Score nano-llava over a whole grid of settings, once, so that studies can be replayed.

    python -m benchmarks.tabulated                       # about 45 minutes on two idle cores
    python -m benchmarks.tabulated --images 10 --alphas 0 1 4 --out /tmp/small.npz

400 images of the nano-scenes split ``table``, which nothing else reads, with 8 questions each, at
205 settings: ResPrune at nine alphas and three seed strategies, the simple baselines and two draws
of random tokens at six budgets, and the unpruned model. Outcomes are remembered in the working
folder, so a run that was cut short goes on where it stopped, and so does a larger one.

The committed ``benchmarks/data/nano-llava.npz`` is smaller: 187 settings x 1,280 samples, from
``--images 160 --alphas 0 0.25 0.5 0.75 1 1.5 2 4``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.table import DATA, Table, images_from_names
from resprune.alpha import FEATURE_NAMES
from resprune.setting import Setting, unpruned
from studies.nano.splits import QUESTIONS_PER_IMAGE
from tuner.progress import Silent
from tuner.scoring.metrics import LEAST_LOG_LIKELIHOOD
from tuner.search.storage import only_one
from tuner.stages.opened import OpenedStudy
from tuner.study import find_study, load_study

MODEL = "nano-llava"
BUDGETS = (98, 64, 43, 22, 11, 6)
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
SEED_STRATEGIES = ("cls_attention", "l2_norm", "relevance")
BASELINES = ("l2_norm", "cls_attention", "divprune", "pool", "relevance")
RANDOM_DRAWS = 2
_EVERY = 10.0  # seconds between lines of progress


class Lines(Silent):
    """Prints how it gets on, a line every ten seconds."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()
        self._stage = ""

    def stage(self, name: str) -> None:
        """Name the stage."""
        self._stage = name
        self._print("")

    def step(self, done: int, total: int) -> None:
        """Print the count, at times."""
        if done == total or time.monotonic() - self._last > _EVERY:
            self._print(f" {done} of {total}")

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        print(f"{self._last - self._begin:7.0f} s  {self._stage}{text}", flush=True)


def grid(budget: int, alphas: Sequence[float] = ALPHAS) -> list[Setting]:
    """Return the settings of one budget."""
    return [
        *(
            Setting.of("resprune", budget, alpha=alpha, seed_strategy=strategy)
            for alpha, strategy in itertools.product(alphas, SEED_STRATEGIES)
        ),
        *(Setting.of(name, budget) for name in BASELINES),
        *(Setting.of("random", budget, seed=draw) for draw in range(RANDOM_DRAWS)),
    ]


def tabulate(images: int, alphas: Sequence[float], work: Path) -> Table:
    """Score the grid.

    Args:
        images: How many images of the split to take.
        alphas: Alphas of ResPrune.
        work: Working folder, which remembers outcomes.

    Returns:
        The table.
    """
    samples = {"split": "table", "samples": images * QUESTIONS_PER_IMAGE}
    study = load_study(find_study(MODEL), {"task": {"tune": samples}})
    progress = Lines()
    with only_one(work), OpenedStudy(study, work, progress) as opened:
        split = opened.split("tune")
        settings, scores, likelihoods = [], [], []
        for name, part in (
            ("unpruned", [unpruned()]),
            *((f"{budget} tokens", grid(budget, alphas)) for budget in BUDGETS),
        ):
            with opened.stage(name):
                plans = split.plans(part)
                settings += part
                scores.append(split.score_plans(plans))
                likelihoods.append(split.first_token_likelihoods(plans))
        return Table(
            settings=tuple(settings),
            right=np.concatenate(scores) == 1.0,
            likelihoods=np.maximum(np.concatenate(likelihoods), LEAST_LOG_LIKELIHOOD),
            features=split.features(),
            feature_names=tuple(FEATURE_NAMES),
            questions=tuple(sample.question for sample in split.samples),
            groups=tuple(split.groups),
            images=images_from_names(split.images),
            made={
                "model": MODEL,
                "fingerprint": opened.bench.model_key,
                "task": study.task.name,
                **samples,
                "questions_per_image": QUESTIONS_PER_IMAGE,
                "prefills": opened.prefills,
            },
        )


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--alphas", type=float, nargs="+", default=ALPHAS)
    parser.add_argument("--work", type=Path, default=Path("runs/table"), help="working folder")
    parser.add_argument("--out", type=Path, default=DATA / f"{MODEL}.npz")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    table = tabulate(args.images, args.alphas, args.work)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table.save(args.out)
    settings, samples = table.right.shape
    print(
        f"{args.out}: {settings} settings x {samples} samples, "
        f"{args.out.stat().st_size / 2**20:.2f} MiB; unpruned {table.truth[table.unpruned]:.4f}"
    )


if __name__ == "__main__":
    main()
