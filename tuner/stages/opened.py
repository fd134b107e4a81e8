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
from resprune.methods.layers import LayerMethod
from resprune.setting import Setting, paper_default
from tuner import tasks
from tuner.progress import Progress, Silent
from tuner.results.statistics import Intervals
from tuner.scoring.bench import CACHE_FOLDER, Bench
from tuner.scoring.model import load_backbone
from tuner.scoring.overlap import PictureHashes, check_names, check_pictures
from tuner.scoring.split import Split
from tuner.stages.claim import claim_test
from tuner.stages.fits import check_model, only, spaces_of, unfit
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
        leave_out: Go on without methods that the model does not allow, if any is left.

    Attributes:
        study: The study.
        run_dir: Its run folder.
        progress: Told how it gets on.
        backbone: The model.
        samples: Samples by split.
        claim_test: What is claimed and how it is tested, or None.
        extractor: The noun pipeline.
        spaces: What is tried, by method.
        unfit: Methods that were left out, each with the reason.
        seconds: Time by stage.

    Raises:
        ResPruneError: Bad input, or a folder that cannot be written.
    """

    def __init__(
        self,
        study: StudyConfig,
        run_dir: Path,
        progress: Progress | None = None,
        *,
        leave_out: bool = False,
    ) -> None:
        self.study = study
        self.run_dir = run_dir
        self.progress = progress or Silent()
        self.seconds: dict[str, float] = {}
        self.unfit: dict[str, str] = {}
        self._splits: dict[str, Split] = {}
        with self.stage("load"):
            task = tasks.make(study.task)
            self.samples = load_samples(study, task)
            self.claim_test = claim_test(study, task, self.samples.get("certify", ()))
            self.backbone: Backbone = load_backbone(study.backbone)
            if leave_out:
                self.unfit = unfit(study, self.backbone)
                fitting = [name for name in study.search.method if name not in self.unfit]
                self.study = study = only(study, fitting) if fitting else study
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
        self.spaces = spaces_of(study, self.backbone)

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
        return Intervals(opened.images, opened.groups, ends=self.bench.metric.ends)

    def tokens(self, setting: Setting) -> int:
        """Return the mean count of visual tokens that a setting keeps on the tune split."""
        known = methods.get(setting.method).stage == "tokens" and setting.later is None
        if isinstance(setting.budget, Count) and known:
            return setting.budget.count
        return self.split("tune").tokens(setting)

    def cost(self, setting: Setting) -> float:
        """Return the visual tokens of the tune split averaged over decoder layers and samples."""
        if setting.inside is None:
            return float(self.tokens(setting))
        return self.split("tune").cost(setting)

    def notes(self, setting: Setting) -> tuple[str, ...]:
        """Return what differs from how the setting's methods were published."""
        missing = methods.get(setting.method).stand_ins
        found = tuple(missing.values()) if self.backbone.text_model is None else ()
        if setting.inside is None:
            return found
        method = methods.get(setting.inside.method)
        assert isinstance(method, LayerMethod)
        inside = method.notes(setting.inside.options, self.bench.depth, setting.positions)
        return (*found, *inside)

    def budgets(self) -> list[Budgets]:
        """Return the study's budgets, the one that keeps most first.

        Raises:
            StudyError: Two that keep the same count on average.
        """
        whole = {"later": None}  # which leaves one count whatever enters
        tokens = {
            budget: self.tokens(self.paper(budget).model_copy(update=whole))
            for budget in self.study.budgets()
        }
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


def load_samples(study: StudyConfig, task: Task) -> dict[str, list[Sample]]:
    """Load the splits and check that no image is in two of them by name.

    Raises:
        StudyError: A split that does not exist or is too small, or an image in two splits.
    """
    if task.report_only:
        raise StudyError(
            f"task.name: {study.task.name!r} has no samples to tune on, only to report on; tune on "
            "another task and `certify` the config on this one, or set task.allow_tuning = true"
        )
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
