"""One split of a study: settings -> plans -> outcomes -> scores, each computed once.

Images are encoded once (`VisualCache`), greedy orders are nested, so one serves every smaller
budget, and outcomes are remembered by sample and plan (`Outcomes`), so settings that keep the same
tokens share one prefill.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial

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
from resprune.plan import Plan, cosines_of, everything, with_rule
from resprune.prompt import Prompt
from resprune.setting import Setting
from tuner.scoring.bench import Bench
from tuner.scoring.llm import Job, Runner
from tuner.scoring.metrics import Kind
from tuner.scoring.outcomes import Outcome
from tuner.scoring.plans import Planner
from tuner.scoring.prompts import Prompts
from tuner.scoring.visual import image_key
from tuner.tasks import Sample

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
        self._smaller: dict[Setting, Split] = {}
        self._scores: dict[Setting, Floats] = {}
        if bench.metric.needs_gold and any(not sample.answers for sample in self.samples):
            raise StudyError(
                f"task.metric: {bench.metric.name} needs a gold answer for every sample"
            )
        bench.visual.load(self.samples, bench.progress)
        self._prompts = Prompts(bench.backbone, self.samples)
        self._digests = [self._digest(i) for i in range(len(self.samples))]
        self._planner = Planner(
            [image_key(sample) for sample in self.samples],
            self.visual,
            self.prompt,
            [sample.id for sample in self.samples],
            bench.workers,
        )
        self._runner = Runner(
            bench.backbone,
            self.visual,
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

    def visual(self, i: int) -> VisualTokens:
        """Return the encoded image of a sample."""
        return self._bench.visual[image_key(self.samples[i])]

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
            totals = [len(self.visual(i).tokens) for i in range(len(self))]
            counts = [min(limit(total), k) for total, k in zip(totals, counts, strict=True)]
        return round(sum(counts) / len(counts))

    def cost(self, setting: Setting) -> float:
        """Return a setting's visual tokens averaged over the decoder layers and the samples.

        Of a setting that does nothing inside the LLM it is ``tokens``.
        """
        if setting.inside is None:
            return float(self.tokens(setting))
        depth = self._bench.depth
        before = methods.get(setting.method).stage == "tokens"
        pairs = Counter(
            (len(self.visual(i).tokens), k) for i, k in enumerate(self._counts(setting))
        )
        total = sum(
            n * cost(setting.at(Count(count=k)) if before else setting, tokens, depth)
            for (tokens, k), n in pairs.items()
        )
        return round(total / len(self), 2)

    def _counts(self, setting: Setting) -> list[int]:
        """Count what a setting's method keeps of each sample's image, its later stage apart."""
        if methods.get(setting.method).stage == "image":
            smaller = self._downsampled(setting)
            return [len(smaller.visual(i).tokens) for i in range(len(self))]
        if isinstance(setting.budget, Energy):
            return [len(plan.kept) for plan in self.plans([setting])[0]]
        counts: list[int] = self._planner.counts(setting).tolist()
        return counts

    def plans(self, settings: Sequence[Setting]) -> list[list[Plan]]:
        """Plan every sample under each setting: S lists of N plans."""
        found = self._planner.plans(
            [s for s in settings if methods.get(s.method).stage == "tokens"]
        )
        rest = iter(found)
        return [
            next(rest)
            if methods.get(s.method).stage == "tokens"
            else [with_rule(plan, s) for plan in self.unpruned(s.positions)]
            for s in settings
        ]

    def unpruned(self, positions: Positions = "keep") -> list[Plan]:
        """Plan every sample of the unpruned model."""
        return [everything(len(self.visual(i).tokens), positions) for i in range(len(self))]

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
        for places, outcomes in self._runner.run(list(jobs.values()), kind):
            store.put({names[i]: o for i, o in zip(places, outcomes, strict=True)})
            self._prefills += len(places)
            done += len(places)
            if self._bench.progress is not None:
                self._bench.progress(done, len(jobs))
        return [[store[key] for key in row] for row in keys]

    def _digest(self, i: int) -> bytes:
        """Hash what decides a sample's outcomes beside its plan."""
        sample, ids = self.samples[i], self._prompts.gold[i]
        parts = [self._bench.model_key, image_key(sample), self._bench.task.max_new_tokens]
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
        sample, tokens = self.samples[i], len(self.visual(i).tokens)
        image = sample.load_image()
        size = Downsample().resized(
            (image.height, image.width), tokens, setting.budget.limit(tokens)
        )
        return dataclasses.replace(
            sample,
            load=partial(_load_resized, sample, size),
            image_version=f"{sample.image_version}@{size[0]}x{size[1]}",
        )


def _load_resized(sample: Sample, size: tuple[int, int]) -> Image.Image:
    return sample.load_image().resize((size[1], size[0]), Image.Resampling.BICUBIC)
