"""A study with its model, samples and stores open: what stages, benchmarks and tests work with."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from resprune import NounExtractor, methods
from resprune.backbones import Backbone
from resprune.budget import Count, Energy, Ratio
from resprune.errors import StudyError
from resprune.plan import needs_of, signals_of
from resprune.setting import Setting, paper_default
from tuner import tasks
from tuner.progress import Progress, Silent
from tuner.results.statistics import Intervals
from tuner.scoring.bench import CACHE_FOLDER, Bench
from tuner.scoring.model import load_backbone
from tuner.scoring.overlap import PictureHashes, check_names, check_pictures
from tuner.scoring.split import Split
from tuner.search.space import Space
from tuner.stages.claim import claim_test
from tuner.study import StudyConfig
from tuner.tasks import Sample, Task

Budgets = Count | Ratio | Energy


class OpenedStudy:
    """A study at work.

    Use it as a context: leaving it closes the files.

    Args:
        study: The study.
        run_dir: Its run folder, which exists.
        progress: Told how it gets on.

    Attributes:
        study: The study.
        run_dir: Its run folder.
        progress: Told how it gets on.
        backbone: The model.
        samples: Samples by split.
        claim_test: What is claimed and how it is tested, or None.
        extractor: The noun pipeline.
        spaces: What is tried, by method.
        seconds: Time by stage.

    Raises:
        ResPruneError: Bad input, or a folder that cannot be written.
    """

    def __init__(self, study: StudyConfig, run_dir: Path, progress: Progress | None = None) -> None:
        self.study = study
        self.run_dir = run_dir
        self.progress = progress or Silent()
        self.seconds: dict[str, float] = {}
        self._splits: dict[str, Split] = {}
        with self.stage("load"):
            task = tasks.make(study.task)
            self.samples = load_samples(study, task)
            self.claim_test = claim_test(study, task, self.samples.get("certify", ()))
            self.backbone: Backbone = load_backbone(study.backbone)
            check_model(study, self.backbone)
            check_pictures(self.samples, PictureHashes(run_dir / CACHE_FOLDER), self.progress.step)
            self.extractor = NounExtractor()
            self.bench = Bench.open(
                self.backbone,
                task,
                study.task.metric,
                run_dir,
                self.extractor,
                batch_size=study.backbone.batch_size,
                progress=self.progress.step,
            )
        self.spaces = {
            name: Space(study.search, name, study.budgets()) for name in study.search.method
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bench.outcomes.close()

    def split(self, name: str) -> Split:
        """Return a split, encoding its images the first time."""
        if name not in self._splits:
            self._splits[name] = Split(name, self.samples[name], self.bench)
        return self._splits[name]

    @property
    def prefills(self) -> int:
        """Rows that went through the LLM so far."""
        return sum(split.prefills for split in self._splits.values())

    @property
    def seed(self) -> int:
        """Seed of everything random."""
        return self.study.study.seed

    def intervals(self, split: str) -> Intervals:
        """Return the intervals of a split's scores."""
        opened = self.split(split)
        return Intervals(opened.images, opened.groups, self.seed, self.study.report.resamples)

    def tokens(self, setting: Setting) -> int:
        """Return the mean count of visual tokens that a setting keeps on the tune split."""
        if isinstance(setting.budget, Count) and methods.get(setting.method).stage == "tokens":
            return setting.budget.count
        return self.split("tune").tokens(setting)

    def budgets(self) -> list[Budgets]:
        """Return the study's budgets, the one that keeps most first.

        Raises:
            StudyError: Two that keep the same count on average.
        """
        tokens = {budget: self.tokens(self.paper(budget)) for budget in self.study.budgets()}
        ranked = sorted(tokens, key=lambda budget: -tokens[budget])
        for one, other in itertools.pairwise(ranked):
            if tokens[one] == tokens[other] and not isinstance(other, Energy):
                raise StudyError(
                    f"{self.study.study.name}: search.budget: {other} is {tokens[other]} tokens, "
                    "which another budget already is; keep one of them"
                )
        return ranked

    def paper(self, budget: Budgets) -> Setting:
        """Return the paper's default, with what the study fixes beside it."""
        default = paper_default(self.backbone.family, budget)
        strategy = default.option("seed_strategy")
        if strategy.endswith("_attention") and strategy not in self.backbone.seed_signals:
            default = default.with_options(seed_strategy="l2_norm")
        space = self.spaces.get("resprune")
        if space is None:
            return default
        base = space.base(budget)
        return base.with_options(
            alpha=default.option("alpha"), seed_strategy=default.option("seed_strategy")
        )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name a stage and time it."""
        self.progress.stage(name)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def check_model(study: StudyConfig, backbone: Backbone) -> None:
    """Check what only the model can tell: budgets over T, and signals.

    Raises:
        ResPruneError: A budget over the fixed T, or a signal that the vision tower cannot give.
    """
    where, fixed = study.study.name, backbone.visual_tokens
    for name, ranges in study.search.options.items():
        base = Space(study.search, name, study.budgets()).base(study.budgets()[0])
        listed = [
            (key, v) for key, values in ranges.items() if isinstance(values, tuple) for v in values
        ]
        for setting in (base, *(base.with_options(**{key: value}) for key, value in listed)):
            backbone.require_signals(signals_of(needs_of(setting), backbone.seed_signals))
        if methods.get(name).stage == "image" and fixed is not None:
            raise StudyError(
                f"{where}: search.method: {name!r} is not comparable on this model, whose tower "
                f"gives {fixed} visual tokens whatever the image's size; leave it out"
            )
    if fixed is None:
        return
    for budget in study.budgets():
        most = {Count: "count", Energy: "most"}.get(type(budget))
        if most is not None and getattr(budget, most) > fixed:
            raise StudyError(
                f"{where}: search.budget: {budget} is over the {fixed} visual tokens of this "
                f"model; give counts from 1 to {fixed}"
            )
    for one, other in itertools.combinations(study.budgets(), 2):
        if Energy not in (type(one), type(other)) and one.limit(fixed) == other.limit(fixed):
            raise StudyError(
                f"{where}: search.budget: {other} is {other.limit(fixed)} tokens, which {one} "
                "already is; keep one of them"
            )


def load_samples(study: StudyConfig, task: Task) -> dict[str, list[Sample]]:
    """Load the splits and check that no image is in two of them by name.

    Raises:
        StudyError: A split that does not exist or is too small, or an image in two splits.
    """
    splits = {
        name: task.draw(
            spec.split,
            spec.samples,
            spec.offset,
            questions_per_image=spec.questions_per_image,
            seed=study.study.seed,
        )
        for name, spec in study.task.splits().items()
        if name != "fit" or study.alpha.adaptive
    }
    check_names(splits)
    return splits
