"""Test a claim about a config that exists, on data that nothing was chosen on.

`resprune-tune certify CONFIG --task FILE --loss 0.02`. The test by betting looks after every image
and stops when it knows; on last week's prompts it is the check for drift.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from resprune import methods
from resprune.attaching.compatible import check_fit, check_policy, make_extractor
from resprune.certificate import CertifySplit, Claim
from resprune.config import PruningConfig
from resprune.errors import ResPruneError, StudyError
from resprune.setting import unpruned
from resprune.validation import StrictModel
from tuner import certificate, tasks
from tuner.predict import load_model
from tuner.progress import Progress, Silent
from tuner.scoring.bench import Bench
from tuner.scoring.split import Split
from tuner.search.storage import only_one
from tuner.stages.claim import ClaimTest, fitting_test, split_info
from tuner.stages.policies import policy_scores
from tuner.study import find_study
from tuner.study.schema import SplitSpec
from tuner.study.task_file import load_task
from tuner.tasks import Sample

Floats = npt.NDArray[np.float64]
Verdict = Literal["certified", "refuted", "undecided"]
_IMAGES_AT_ONCE = 32


class Certification(StrictModel):
    """What came of testing a claim about a config.

    Attributes:
        config: The config's folder.
        model: The model that answered.
        budget: Budget of the policy, as the config names it.
        metric: The metric whose mean is meant.
        claim: What was claimed.
        test: How it was tested.
        split: The samples on offer.
        verdict: ``certified``; ``refuted`` (the loss is at least the claim's, at the same
            confidence); else ``undecided``.
        images: Images looked at.
        questions: Questions about them.
        loss: Mean loss over them, in units of the claim.
        worse: Questions whose score fell.
        better: Questions whose score rose.
        p_value: Of the claim's opposite.
        wealth: For the claim; None under ``exact``.
        opposite: Wealth for its opposite; None under ``exact``.
    """

    config: str
    model: str
    budget: str
    metric: str
    claim: Claim
    test: Literal["betting", "exact"]
    split: CertifySplit
    verdict: Verdict
    images: int
    questions: int
    loss: float
    worse: int
    better: int
    p_value: float
    wealth: float | None = None
    opposite: float | None = None


def certify_config(
    config_dir: Path,
    task: str,
    claim: Claim,
    *,
    budget: int | float | None = None,
    test: Literal["betting", "exact"] = "betting",
    images: int | None = None,
    clip: float | None = None,
    model: str | None = None,
    seed: int = 0,
    folder: Path = Path("runs/certify"),
    progress: Progress | None = None,
) -> Certification:
    """Test a claim about one policy of a config on the certify split of a task.

    Args:
        config_dir: An exported config.
        task: A study's name, or a TOML file whose ``[task]`` table has a certify split.
        claim: What is claimed.
        budget: Budget of the policy; None for the config's default.
        test: ``betting`` looks after every image; ``exact`` reports once, at ``images``.
        images: How many images to look at, at most; with ``exact`` fixed beforehand.
        clip: Where a metric without a least value is cut off.
        model: Name of an embedded model, a folder or a hub id; None for the config's.
        seed: Draws the order of the images, and their questions.
        folder: Where outcomes and encoded images are kept.
        progress: Told how it gets on.

    Returns:
        The verdict with its numbers.

    Raises:
        ResPruneError: A config, task, claim or number of images that cannot be used.
    """
    progress = progress or Silent()
    config = PruningConfig.from_pretrained(config_dir)
    policy = config.policy(budget)
    if methods.get(policy.method).stage == "none":
        raise ResPruneError(
            f"{config_dir}: the policy at budget {policy.budget} keeps everything, and loses "
            "nothing; name another with --budget"
        )
    options, spec = load_task(find_study(task))
    _warn_of_own_images(config, spec)
    source = tasks.make(options)
    samples = source.draw(
        spec.split,
        spec.samples,
        spec.offset,
        questions_per_image=spec.questions_per_image,
        seed=seed,
    )
    order = _drawn(samples, seed)
    if images is not None and images > len(order):
        raise StudyError(
            f"--images {images}: the certify split of {task} has {len(order)}; ask for fewer, or "
            "raise task.certify.samples"
        )
    if test == "exact" and images is None:
        raise StudyError("--test exact reports once: fix how many images it looks at by --images N")
    order = order[:images]
    with only_one(folder):
        progress.stage("load")
        backbone = load_model(config, model, str(config_dir))
        check_fit(config, backbone)
        check_policy(policy, backbone)
        extractor = make_extractor(config.nouns)
        bench = Bench.open(
            backbone, source, options.metric, folder, extractor, progress=progress.step
        )
        metric = bench.metric
        if not metric.bounded and clip is None:
            raise StudyError(
                f"--clip is missing: {metric.name} has no least value; name one, such as -6.0"
            )
        split = split_info(spec.split, spec.offset, [s for group in order for s in group])
        asked = fitting_test(test, claim, split, metric, source, clip)
        progress.stage("certify")

        def scores() -> Iterator[tuple[Floats, Floats, list[str]]]:
            for start in range(0, len(order), _IMAGES_AT_ONCE):
                part = [s for group in order[start : start + _IMAGES_AT_ONCE] for s in group]
                opened = Split("certify", part, bench)
                pruned = policy_scores(opened, policy, config.predictor)
                yield opened.score(unpruned()), pruned, opened.images

        try:
            found = (_exact if test == "exact" else _betting)(asked, scores(), len(order), progress)
        finally:
            bench.outcomes.close()
    return Certification(
        config=str(config_dir),
        model=str(model or (config.backbone.id if config.backbone else "")),
        budget=str(policy.budget),
        metric=metric.name,
        claim=claim,
        test=test,
        split=split,
        **found,
    )


def _warn_of_own_images(config: PruningConfig, spec: SplitSpec) -> None:
    """Warn where the config's own certificate, by its split's name, rests on the same samples."""
    own = None if config.certificate is None else config.certificate.split
    if own is None or own.name != spec.split:
        return
    if own.offset < spec.end and spec.offset < own.offset + own.samples:
        warnings.warn(
            f"task.certify: samples {own.offset} to {own.offset + own.samples - 1} of a split "
            f"{own.name!r} chose what this config recommends; on the same data this is no new "
            "test: give another split or offset",
            stacklevel=3,
        )


def _drawn(samples: Sequence[Sample], seed: int) -> list[list[Sample]]:
    """Group samples by image, the images in an order drawn by the seed."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.image_id, []).append(sample)
    return [groups[image] for image in certificate.drawn_order(list(groups), seed)]


def _betting(
    asked: ClaimTest,
    scores: Iterator[tuple[Floats, Floats, list[str]]],
    total: int,
    progress: Progress,
) -> dict[str, Any]:
    """Look after every image, and stop when it is known."""
    claim, clip = asked.claim, asked.clip
    bets = certificate.Betting(claim, asked.split.questions_per_image, clip)
    seen: list[tuple[Floats, Floats]] = []
    for whole, kept, names in scores:
        u, s = certificate.bounded(whole, clip), certificate.bounded(kept, clip)
        images = list(dict.fromkeys(names))
        for image, margin in zip(
            images, certificate.margins(u, s, names, claim, images).tolist(), strict=True
        ):
            rows = np.array(names) == image
            seen.append((u[rows], s[rows]))
            if bets.add(margin) != "undecided":
                break
        progress.step(bets.images, total)
        if bets.verdict != "undecided":
            break
    u, s = (np.concatenate(rows) for rows in zip(*seen, strict=True))
    return {
        "verdict": bets.verdict,
        "images": bets.images,
        **_counts(u, s, claim),
        "p_value": bets.p_value,
        "wealth": bets.wealth,
        "opposite": bets.opposite,
    }


def _exact(
    asked: ClaimTest,
    scores: Iterator[tuple[Floats, Floats, list[str]]],
    total: int,
    progress: Progress,
) -> dict[str, Any]:
    """Look once, at all images."""
    parts = []
    for part in scores:
        parts.append(part)
        progress.step(sum(len(names) for _, _, names in parts), total)
    whole = np.concatenate([u for u, _, _ in parts])
    kept = np.concatenate([s for _, s, _ in parts])
    found = _counts(whole, kept, asked.claim)
    loss, level = asked.claim.loss, 1 - asked.claim.confidence
    p_value = certificate.exact_p_value(found["worse"], found["better"], total, loss)
    return {
        "verdict": "certified" if p_value <= level else "undecided",
        "images": total,
        **found,
        "p_value": p_value,
    }


def _counts(whole: Floats, kept: Floats, claim: Claim) -> dict[str, Any]:
    return {
        "questions": len(whole),
        "loss": certificate.mean_loss(whole, kept, claim),
        "worse": int((kept < whole).sum()),
        "better": int((kept > whole).sum()),
    }
