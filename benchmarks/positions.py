"""What dense positions cost: ``python -m benchmarks.positions nano-llava --samples 1000``.

A server whose positions have no gaps needs ``compact`` positions. The same settings keep the same
tokens with original (``keep``) and with dense positions here, on report images of a study's task
that nothing was chosen on, one question an image; the loss is paired by question, its 95 %
interval by image. Positive is what ``compact`` loses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from resprune import NounExtractor
from resprune.setting import Setting, paper_default, unpruned
from tuner import tasks
from tuner.results.statistics import Intervals
from tuner.scoring.bench import Bench
from tuner.scoring.model import load_backbone
from tuner.scoring.split import Split
from tuner.study import find_study, load_study

SHARES = (0.5, 0.33, 0.22, 0.11, 0.05)


@dataclass(frozen=True)
class Row:
    """What dense positions cost one setting.

    Attributes:
        setting: Name of the setting.
        share: Share of each image's visual tokens that is kept.
        score: Mean score with original positions.
        loss: What dense ones lose, on average.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    setting: str
    share: float
    score: float
    loss: float
    low: float
    high: float


def settings(family: str, share: float) -> dict[str, Setting]:
    """The settings at one share of each image's tokens, by name."""
    return {
        "ResPrune, the paper's alpha": paper_default(family, share),
        "ResPrune, alpha 0": Setting.of("resprune", share, alpha=0.0, seed_strategy="l2_norm"),
        "l2_norm": Setting.of("l2_norm", share),
    }


def measure(name: str, samples: int, offset: int, work: Path) -> tuple[float, list[Row]]:
    """Score each setting with both position policies; also the unpruned model."""
    study = load_study(find_study(name))
    task = tasks.make(study.task)
    drawn = task.draw("report", samples, offset, questions_per_image=1)
    backbone = load_backbone(study.backbone)
    size = study.backbone.batch_size
    bench = Bench.open(backbone, task, "score", work, NounExtractor(), batch_size=size)
    split = Split("report", drawn, bench)
    intervals = Intervals(split.images)
    rows = []
    for share in SHARES:
        for label, keep in settings(backbone.family, share).items():
            compact = keep.model_copy(update={"positions": "compact"})
            original, dense = split.score(keep), split.score(compact)
            lost = intervals.of(original, dense)
            mean = float(original.mean())
            rows.append(Row(label, share, mean, lost.mean, lost.low, lost.high))
    whole = float(split.score(unpruned()).mean())
    bench.outcomes.close()
    return whole, rows


def main(argv: Sequence[str] | None = None) -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", nargs="+", help="whose model, task and report split are used")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--offset", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    found = {}
    for name in args.study:
        with tempfile.TemporaryDirectory() as work:
            whole, rows = measure(name, args.samples, args.offset, Path(work))
        found[name] = {"unpruned": whole, "rows": [asdict(row) for row in rows]}
        if args.json:
            continue
        print(
            f"\n**{name}**, {args.samples} images from {args.offset}; unpruned {100 * whole:.1f}\n"
        )
        print("| kept | setting | score, keep | compact loses, points |\n|---:|---|---:|---:|")
        for row in rows:
            loss = f"{100 * row.loss:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
            print(f"| {row.share:.0%} | {row.setting} | {100 * row.score:.1f} | {loss} |")
    if args.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
