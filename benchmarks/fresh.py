"""Does a study's claim hold on fresh images? Policies of a config on samples nothing was chosen on.

    python -m benchmarks.fresh runs/nano-llava/config nano-llava --samples 4000 --offset 2000

Scores the unpruned model and the config's policies, those alone that were certified where there are
any, else all of at least a fifth of the tokens, on the report split with one question an image, and
prints each mean loss with its 95 % interval by image. A claim is refuted where the whole interval
lies above it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resprune.attaching.compatible import make_extractor
from resprune.config import PruningConfig
from resprune.setting import Adaptive, Setting, unpruned
from tuner import tasks
from tuner.predict import load_model
from tuner.results.statistics import Intervals
from tuner.scoring.bench import Bench
from tuner.scoring.split import Split
from tuner.stages.policies import policy_scores
from tuner.study import find_study, load_study

_SHARE = 5  # of the tokens, under which no policy here loses little


def policies(config: PruningConfig) -> list[Setting | Adaptive]:
    """Return the certified policies of a config, else those of at least a fifth of the tokens."""
    table = [policy for policy in config.table if policy != unpruned()]
    certificate = config.certificate
    passed = {t.budget for t in certificate.certified} if certificate is not None else set()
    total = config.backbone.visual_tokens if config.backbone else None
    if passed:
        return [policy for policy in table if policy.budget in passed]
    return [p for p in table if total is None or _SHARE * p.budget.limit(total) >= total]


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("study", help="whose task and report split are used")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--offset", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=Path("runs/fresh"), help="working folder")
    args = parser.parse_args()
    study = load_study(find_study(args.study))
    config = PruningConfig.from_pretrained(args.config)
    task = tasks.make(study.task)
    samples = task.draw("report", args.samples, args.offset, questions_per_image=1)
    args.work.mkdir(parents=True, exist_ok=True)
    backbone = load_model(config, None, str(args.config))
    extractor = make_extractor(config.nouns)
    bench = Bench.open(
        backbone, task, "score", args.work, extractor, batch_size=study.backbone.batch_size
    )
    split = Split("report", samples, bench)
    intervals = Intervals(split.images)
    whole = split.score(unpruned())
    print(f"{len(samples):,} images from {args.offset:,} on; unpruned {whole.mean():.4f}")
    claim = config.certificate.claim if config.certificate is not None else None
    print(f"claim: loss under {claim.loss:g} ({claim.scale})" if claim else "no claim")
    for policy in policies(config):
        lost = intervals.of(whole, policy_scores(split, policy, config.predictor))
        text = f"{policy.budget}: loss {lost.mean:+.4f} [{lost.low:+.4f}, {lost.high:+.4f}]"
        if claim is not None and claim.scale == "absolute":
            text += ", refuted" if lost.low > claim.loss else ", not refuted"
        print(text)
    bench.outcomes.close()


if __name__ == "__main__":
    main()
