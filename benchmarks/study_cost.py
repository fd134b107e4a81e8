"""What a study's trials cost against calling ``generate`` for every trial and sample.

    python benchmarks/study_cost.py                      # the demo study; about two minutes
    python benchmarks/study_cost.py --calls 100 --json

The study's trials are run in an empty folder, encoding included. The plain loop does the same
trials the obvious way: for each trial, attach its setting, and for each sample run the processor
and ``generate``. It would take long, so pairs of a trial and a sample are drawn and timed, and the
mean is multiplied up. So is a loop in batches, which is as far as the obvious way goes.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resprune import PruningConfig, attach
from resprune.setting import Setting, unpruned
from tuner.run import run_trials
from tuner.scoring.visual import inputs_of
from tuner.search.trials import Search
from tuner.stages.opened import OpenedStudy
from tuner.study import StudyConfig, find_study, load_study
from tuner.tasks import Sample

TARGET = 8.0


@dataclass(frozen=True)
class Timing:
    """Seconds of one way through all trials: by the clock, and of processor time."""

    clock: float
    processor: float

    def times(self, factor: float) -> Timing:
        """Scale a measured part up to the whole."""
        return Timing(self.clock * factor, self.processor * factor)


def timed(work: Callable[[], Any]) -> Timing:
    """Run something and time it."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return Timing(time.perf_counter() - clock, time.process_time() - processor)


def measure(study: StudyConfig, calls: int, seed: int) -> dict[str, Any]:
    """Time the trials of a study and the plain loops over the same trials.

    Args:
        study: The study.
        calls: Pairs of a trial and a sample to time in the plain loop.
        seed: Draws them.

    Returns:
        Figures, ready for JSON.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        OpenedStudy(study, Path(folder)) as opened,
    ):
        found: list[Search] = []

        def trials() -> None:
            score = opened.split("tune").score(unpruned())
            found.append(run_trials(opened, float(score.mean())))

        ours = timed(trials)
        tune, done = opened.split("tune"), found[0].trials()
        pairs = len(done) * len(tune)
        rng = random.Random(seed)
        drawn = [(rng.choice(done), rng.choice(tune.samples)) for _ in range(calls)]

        def answer(setting: Setting, samples: Sequence[Sample]) -> None:
            backbone = opened.backbone
            config = PruningConfig.from_dict({"default": setting.budget, "table": [setting]})
            with attach(backbone.model, backbone.processor, config):
                inputs, _ = inputs_of(backbone, samples)
                backbone.model.generate(
                    **inputs,
                    query=[sample.question for sample in samples],
                    max_new_tokens=opened.bench.task.max_new_tokens,
                    do_sample=False,
                )

        size = study.backbone.batch_size
        answer(done[0].setting, tune.samples[:size])  # warm up
        plain = timed(lambda: [answer(trial.setting, [sample]) for trial, sample in drawn])
        batches = [
            (trial, rng.sample(tune.samples, min(size, len(tune))))
            for trial, _ in drawn[: max(2, calls // 16)]
        ]
        batched = timed(lambda: [answer(trial.setting, samples) for trial, samples in batches])
        rows = sum(len(samples) for _, samples in batches)
        prefills, hits = tune.prefills, opened.bench.outcomes.hits
    one_by_one, in_batches = plain.times(pairs / calls), batched.times(pairs / rows)
    return {
        "study": study.study.name,
        "trials": len(done),
        "samples": len(tune),
        "outcomes": pairs,
        "prefills": prefills,
        "memo_hits": hits,
        "seconds": {
            "study": asdict(ours),
            "plain loop": asdict(one_by_one),
            "loop in batches": asdict(in_batches),
        },
        "timed_calls": {"plain loop": calls, "loop in batches": rows},
        "times_cheaper": {
            "plain loop": round(one_by_one.clock / ours.clock, 1),
            "loop in batches": round(in_batches.clock / ours.clock, 1),
        },
        "target": TARGET,
        "met": one_by_one.clock >= TARGET * ours.clock,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="nano-llava")
    parser.add_argument("--calls", type=int, default=200, help="timed calls of the plain loop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    arguments = parser.parse_args()
    study = load_study(find_study(arguments.study))
    found = measure(study, arguments.calls, arguments.seed)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['study']}: {found['trials']} trials x {found['samples']} samples, "
          f"{found['prefills']} prefills")  # fmt: skip
    print(f"{'':18}{'seconds':>10}{'processor':>12}{'times the study':>18}")
    for name, row in found["seconds"].items():
        ratio = row["clock"] / found["seconds"]["study"]["clock"]
        print(f"{name:18}{row['clock']:10.1f}{row['processor']:12.1f}{ratio:18.1f}")
    print(f"target: {TARGET:g} times cheaper than the plain loop: "
          f"{'met' if found['met'] else 'not met'}")  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
