"""One split of a study: settings -> plans -> outcomes -> scores, each computed once.

Images are encoded once (`VisualCache`), greedy orders are nested, so one serves every smaller
budget, and outcomes are remembered by sample and plan (`Outcomes`), so settings that keep the same
tokens share one prefill.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from resprune import methods
from resprune.alpha import prompt_features, question_form
from resprune.backbones import VisualTokens
from resprune.budget import Count, Energy
from resprune.cost import cost
from resprune.errors import StudyError
from resprune.methods.downsample import Downsample
from resprune.options import Positions
from resprune.plan import Plan, cosines_of, everything, joined, with_rule
from resprune.prompt import Prompt
from resprune.setting import Setting
from tuner.scoring.bench import Bench
from tuner.scoring.divergence import Divergence
from tuner.scoring.llm import Job, Runner
from tuner.scoring.metrics import Kind
from tuner.scoring.outcomes import Outcome
from tuner.scoring.plans import Planner
from tuner.scoring.prompts import Prompts
from tuner.tasks import Picture, Sample, Task

Floats = npt.NDArray[np.float64]


class Split:
    """Scores policies on the samples of one split.

    Args:
        name: The part it plays: tune, fit, certify or report.
        samples: N samples.
        bench: What it shares with the other splits.
        whole: The split whose images, made smaller, these are.

    Raises:
        StudyError: The metric needs gold answers and a sample has none.
    """

    def __init__(
        self, name: str, samples: Sequence[Sample], bench: Bench, whole: Split | None = None
    ) -> None:
        self.name = name
        self.samples = list(samples)
        self._bench = bench
        self._whole = whole
        self._prefills = 0
        self._reference: list[str | None] | None = None
        self._divergence: Divergence | None = None
        self._smaller: dict[Setting, Split] = {}
        self._scores: dict[Setting, Floats] = {}
        if bench.metric.needs_gold and any(not sample.answers for sample in self.samples):
            raise StudyError(
                f"task.metric: {bench.metric.name} needs a gold answer for every sample"
            )
        bench.visual.load(self.samples, bench.progress)
        self._prompts = Prompts(bench.backbone, self.samples)
        self._digests = [self._digest(i) for i in range(len(self.samples))]
        self._views = [(i, v) for i, s in enumerate(self.samples) for v in range(len(s.pictures))]
        self._planner = Planner(
            [f"{self.samples[i].image_key} {v}" for i, v in self._views],
            lambda view: self.visuals(self._views[view][0])[self._views[view][1]],
            lambda view: self.prompt(self._views[view][0]),
            [self.samples[i].id for i, _ in self._views],
            bench.workers,
        )
        self._runner = Runner(
            bench.backbone,
            self.visuals,
            self._prompts,
            max_new_tokens=bench.task.max_new_tokens,
            batch_size=bench.batch_size,
            workers=bench.workers,
        )

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def prefills(self) -> int:
        """Rows that went through the LLM, those of its images made smaller included."""
        return self._prefills + sum(smaller.prefills for smaller in self._smaller.values())

    # -- what the samples are -----------------------------------------------------------

    @property
    def groups(self) -> list[str]:
        """Question type of each sample."""
        return [sample.group for sample in self.samples]

    @property
    def images(self) -> list[str]:
        """Image of each sample: the clusters of every interval."""
        return [sample.image_id for sample in self.samples]

    def visuals(self, i: int) -> tuple[VisualTokens, ...]:
        """Return the encoded images of a sample."""
        return self._bench.visual[self.samples[i].image_key]

    def visual(self, i: int) -> VisualTokens:
        """Return the encoded image of a sample that has one.

        Raises:
            StudyError: It has several.
        """
        found = self.visuals(i)
        if len(found) > 1:
            raise StudyError(
                f"sample {self.samples[i].id!r} has {len(found)} images, and what is chosen or "
                "measured by prompt is known for one image a question; leave out task.fit, or "
                "set alpha.adaptive = false"
            )
        return found[0]

    def prompt(self, i: int) -> Prompt:
        """Return the question of a sample, read into nouns."""
        return self._bench.reader.read(self.samples[i].question)

    def features(self) -> Floats:
        """Return the prompt-specificity features, shape (N, F)."""
        rows = []
        for i in range(len(self)):
            prompt = self.prompt(i)
            rows.append(prompt_features(prompt.context(cosines_of(self.visual(i), prompt))))
        return np.stack(rows)

    def forms(self) -> list[str]:
        """Return the question form of each sample."""
        prompts = (self.prompt(i) for i in range(len(self)))
        return [question_form(prompt.question, prompt.tags) for prompt in prompts]

    # -- policies -> scores -------------------------------------------------------------

    def score(self, setting: Setting) -> Floats:
        """Score one setting, shape (N,)."""
        scores: Floats = self.scores([setting])[0]
        return scores

    def scores(self, settings: Sequence[Setting]) -> Floats:
        """Score settings under the study's metric, shape (S, N); each setting once."""
        missing = [s for s in dict.fromkeys(settings) if s not in self._scores]
        rest = [s for s in missing if methods.get(s.method).stage != "image"]
        self._scores |= zip(rest, self.score_plans(self.plans(rest)), strict=True)
        for setting in missing:
            if setting not in self._scores:
                smaller = self._downsampled(setting)
                self._scores[setting] = smaller.score_plans([smaller.unpruned()])[0]
        rows = [self._scores[s] for s in settings]
        return np.array(rows, dtype=np.float64).reshape(len(settings), len(self))

    def tokens(self, setting: Setting) -> int:
        """Return the mean count of visual tokens that a setting keeps, those left in the end."""
        counts = self._counts(setting)
        if setting.inside is not None:
            limit = setting.inside.budget.limit
            counts = [min(limit(total), k) for total, k in zip(self._totals, counts, strict=True)]
        return round(sum(counts) / len(counts))

    def cost(self, setting: Setting) -> float:
        """Return a setting's visual tokens averaged over the decoder layers and the samples.

        Of a setting that does nothing inside the LLM it is ``tokens``.
        """
        if setting.inside is None:
            return float(self.tokens(setting))
        depth = self._bench.depth
        before = methods.get(setting.method).stage == "tokens"
        pairs = Counter(zip(self._totals, self._counts(setting), strict=True))
        total = sum(
            n * cost(setting.at(Count(count=k)) if before else setting, tokens, depth)
            for (tokens, k), n in pairs.items()
        )
        return round(total / len(self._views), 2)

    @property
    def _totals(self) -> list[int]:
        """Visual tokens of each image of each sample."""
        return [len(visual.tokens) for i in range(len(self)) for visual in self.visuals(i)]

    def _counts(self, setting: Setting) -> list[int]:
        """Count what a setting's method keeps of each image, its later stage apart."""
        if methods.get(setting.method).stage == "image":
            return self._downsampled(setting)._totals
        if isinstance(setting.budget, Energy):
            return [len(plan.kept) for plan in self._planner.plans([setting])[0]]
        counts: list[int] = self._planner.counts(setting).tolist()
        return counts

    def plans(self, settings: Sequence[Setting]) -> list[list[Plan]]:
        """Plan every sample under each setting: S lists of N plans."""
        found = self._planner.plans(
            [s for s in settings if methods.get(s.method).stage == "tokens"]
        )
        rest = iter(found)
        each = [
            next(rest)
            if methods.get(s.method).stage == "tokens"
            else [with_rule(everything(total, s.positions), s) for total in self._totals]
            for s in settings
        ]
        return [self._joined(row) for row in each]

    def unpruned(self, positions: Positions = "keep") -> list[Plan]:
        """Plan every sample of the unpruned model."""
        return self._joined([everything(total, positions) for total in self._totals])

    def _joined(self, plans: Sequence[Plan]) -> list[Plan]:
        """Make one plan a sample of the plans of its images, whose indices go on counting."""
        if len(self._views) == len(self):
            return list(plans)
        rest, found = iter(plans), []
        for i in range(len(self)):
            visuals = self.visuals(i)
            found.append(joined(list(islice(rest, len(visuals))), [len(v.tokens) for v in visuals]))
        return found

    # -- plans -> outcomes --------------------------------------------------------------

    def score_plans(self, plans: Sequence[Sequence[Plan]]) -> Floats:
        """Score plans under the study's metric.

        Args:
            plans: R times one plan a sample.

        Returns:
            Scores, shape (R, N).
        """
        metric, task = self._bench.metric, self._bench.task
        reference = self._references() if metric.compares else [None] * len(self)
        rows = [
            [
                metric.score(outcome, partial(task.score, sample=sample), other)
                for outcome, sample, other in zip(row, self.samples, reference, strict=True)
            ]
            for row in self._outcomes(plans, metric.kind)
        ]
        return np.array(rows, dtype=np.float64).reshape(len(plans), len(self))

    def _references(self) -> list[str | None]:
        """Answer every sample with all tokens of its own image, not of one made smaller."""
        if self._whole is not None:
            return self._whole._references()
        if self._reference is None:
            self._reference = [*self.answers([self.unpruned()])[0]]
        return self._reference

    def answers(self, plans: Sequence[Sequence[Plan]]) -> list[list[str]]:
        """Answer every sample under each plan, greedily decoded; R lists of N texts."""
        return [[str(o.answer) for o in row] for row in self._outcomes(plans, "answer")]

    def measures(self, setting: Setting, plans: Sequence[Plan] | None = None) -> dict[str, float]:
        """Measure the answers under a setting together, as the task does.

        Args:
            setting: The setting.
            plans: One plan a sample, where it was chosen by prompt.

        Returns:
            Measures by name; none where the metric reads no answers.
        """
        task = self._bench.task
        if self._bench.metric.kind != "answer" or type(task).measures is Task.measures:
            return {}
        split = self
        if plans is None and methods.get(setting.method).stage == "image":
            split = self._downsampled(setting)
            plans = split.unpruned()
        answers = split.answers([split.plans([setting])[0] if plans is None else plans])[0]
        return task.measures(answers, self.samples) if all(s.answers for s in self.samples) else {}

    def first_token_likelihoods(self, plans: Sequence[Sequence[Plan]]) -> Floats:
        """Return the log-likelihood of each gold answer's first token in nats, shape (R, N).

        Greedy decoding gives it at no cost.
        """
        rows = [[o.likelihood for o in row] for row in self._outcomes(plans, "answer")]
        return np.array(rows, dtype=np.float64).reshape(len(plans), len(self))

    def correctness(self, plans: Sequence[Sequence[Plan]]) -> Floats:
        """Score the answer of every sample under each plan as its task does, shape (R, N)."""
        task = self._bench.task
        rows = [
            [task.score(answer, sample) for answer, sample in zip(row, self.samples, strict=True)]
            for row in self.answers(plans)
        ]
        return np.array(rows, dtype=np.float64).reshape(len(plans), len(self))

    def log_likelihoods(self, plans: Sequence[Sequence[Plan]]) -> Floats:
        """Return the log-likelihood of each whole gold answer in nats, shape (R, N)."""
        rows = [[o.likelihood for o in row] for row in self._outcomes(plans, "log_likelihood")]
        return np.array(rows, dtype=np.float64).reshape(len(plans), len(self))

    def _outcomes(self, plans: Sequence[Sequence[Plan]], kind: Kind) -> list[list[Outcome]]:
        store = self._bench.outcomes
        keys = [[self._key(i, plan, kind) for i, plan in enumerate(row)] for row in plans]
        flat = [key for row in keys for key in row]
        store.find(flat)
        jobs: dict[bytes, Job] = {}
        for row, its_keys in zip(plans, keys, strict=True):
            for i, (plan, key) in enumerate(zip(row, its_keys, strict=True)):
                if key in store or key in jobs:
                    store.hits += 1
                else:
                    jobs[key] = Job(i, plan)
        names = list(jobs)
        done = 0
        for places, outcomes in self._run(list(jobs.values()), kind):
            store.put({names[i]: o for i, o in zip(places, outcomes, strict=True)})
            self._prefills += len(places)
            done += len(places)
            if self._bench.progress is not None:
                self._bench.progress(done, len(jobs))
        return [[store[key] for key in row] for row in keys]

    def _run(self, jobs: list[Job], kind: Kind) -> Iterator[tuple[list[int], list[Outcome]]]:
        if kind != "divergence" or not jobs:
            return self._runner.run(jobs, kind)
        whole = self if self._whole is None else self._whole
        if whole._divergence is None:
            whole._divergence = Divergence(whole._runner, whole._answered, whole.unpruned())
            whole._prefills += len(whole)
        return whole._divergence.run(jobs, self._runner, self._answered)

    @cached_property
    def _answered(self) -> Prompts:
        """The prompts with the unpruned model's answers behind them."""
        return self._prompts.with_answers([str(text) for text in self._references()])

    def _digest(self, i: int) -> bytes:
        """Hash what decides a sample's outcomes beside its plan."""
        sample, ids = self.samples[i], self._prompts.gold[i]
        parts = [self._bench.model_key, sample.image_key, self._bench.task.max_new_tokens]
        digest = hashlib.blake2b(repr([*parts, len(self._prompts.ids[i])]).encode())
        digest.update(ids.numpy().tobytes())
        return digest.digest()

    def _key(self, i: int, plan: Plan, kind: Kind) -> bytes:
        digest = hashlib.blake2b(self._digests[i], digest_size=16)
        digest.update(kind.encode())
        digest.update(plan.key())
        return digest.digest()

    # -- a method before the tower ------------------------------------------------------

    def _downsampled(self, setting: Setting) -> Split:
        """Return the same samples with their images made smaller."""
        if setting not in self._smaller:
            samples = [self._resized(i, setting) for i in range(len(self))]
            self._smaller[setting] = Split(self.name, samples, self._bench, self)
        return self._smaller[setting]

    def _resized(self, i: int, setting: Setting) -> Sample:
        sample, smaller = self.samples[i], []
        for picture, visual in zip(sample.pictures, self.visuals(i), strict=True):
            image, tokens = picture.load(), len(visual.tokens)
            height, width = Downsample().resized(
                (image.height, image.width), tokens, setting.budget.limit(tokens)
            )
            smaller.append(
                replace(
                    picture,
                    load=partial(_load_resized, picture, (width, height)),
                    version=f"{picture.version}@{height}x{width}",
                )
            )
        first, *more = smaller
        return replace(sample, load=first.load, image_version=first.version, more=tuple(more))


def _load_resized(picture: Picture, size: tuple[int, int]) -> Image.Image:
    return picture.load().resize(size, Image.Resampling.BICUBIC)
