"""The sections and keys of a study, and how they hang together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from itertools import combinations, product
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, create_model, field_validator, model_validator

from resprune import methods
from resprune.budget import Budget, Ratio
from resprune.errors import ConfigError, near_names
from resprune.options import ALPHA_MAX
from resprune.setting import Setting
from resprune.validation import StrictModel
from tuner import tasks
from tuner.paths import FolderName, NameBelow, PathName
from tuner.scoring import metrics
from tuner.search.objectives import KINDS, Certified, FixedBudget, Objective, Pareto
from tuner.search.section import Listed, SearchSection

Alpha = Annotated[float, Field(ge=0.0, le=ALPHA_MAX)]
_Rising = AfterValidator(lambda values: tuple(sorted(values)))
_MANY = 10**9  # tokens, of which a ratio is a share as near as it can be
DEFAULT_GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)


class SplitSpec(StrictModel):
    """Samples of the task that play one part in the study.

    Attributes:
        split: Name of the task's split.
        samples: How many, from ``offset`` on; all where None.
        offset: How many samples of the split to skip.
        questions_per_image: Questions of one image at most, drawn by the study's seed; None takes
            all. ``samples`` and ``offset`` count what is left.
    """

    split: Annotated[NameBelow, Field(min_length=1)]
    samples: int | None = Field(default=None, ge=1)
    offset: int = Field(default=0, ge=0)
    questions_per_image: int | None = Field(default=None, ge=1)

    def overlaps(self, other: SplitSpec) -> bool:
        """Say whether both certainly name a sample in common.

        Where they differ in ``questions_per_image`` they count different samples, and the ranges
        tell nothing: the images are compared once they are loaded.
        """
        alike = (self.split, self.questions_per_image) == (other.split, other.questions_per_image)
        return alike and self.offset < other.end and other.offset < self.end

    @property
    def end(self) -> int:
        """The first sample of the split after these."""
        return sys.maxsize if self.samples is None else self.offset + self.samples


class StudySection(StrictModel):
    """Name, seed, number of trials and objective.

    Attributes:
        name: Name of the run folder: 100 letters, digits, ``-``, ``_`` and ``.`` at most.
        seed: Seed of everything random.
        trials: Trials of each method, those before an interruption included.
        objective: A table with ``kind``, or the kind alone.
        note: A sentence that the report and the card repeat.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")
    seed: int = Field(default=0, ge=0)
    trials: int = Field(default=60, ge=1)
    objective: Objective = Pareto()
    note: str = Field(default="", max_length=1000)

    @field_validator("objective", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            return value
        kind = value.get("kind", "pareto")
        if kind not in KINDS:
            raise ValueError(f"unknown objective {kind!r}. {near_names(str(kind), KINDS)}")
        return {**value, "kind": kind}


class BackboneSection(StrictModel):
    """The model.

    Attributes:
        model: Name of an embedded model, a folder, or a hub id.
        family: Backbone family; checked against the model when given.
        revision: Hub revision.
        dtype: ``auto`` (the checkpoint's own), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (the first GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        attn: Attention implementation of transformers.
        batch_size: Rows of one prefill.
        text_model: Folder or hub id of the CLIP checkpoint that LLaVA-1.5's vision tower is from,
            for ``cdpruner`` as published; without it noun relevance stands in.
    """

    model: Annotated[FolderName, Field(min_length=1)]
    family: str | None = None
    revision: NameBelow | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    attn: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    batch_size: int = Field(default=32, ge=1)
    text_model: Annotated[PathName, Field(min_length=1)] | None = None

    @field_validator("family")
    @classmethod
    def _known_family(cls, value: str | None) -> str | None:
        if value is not None:
            from resprune import backbones

            backbones.get(value)
        return value


class TaskSection(tasks.TaskOptions):
    """The splits of a task, beside the keys of every task; its own keys join in ``schema_for``.

    Attributes:
        tune: Samples that choose settings.
        fit: Samples that fit the alpha predictor; without them alpha is the same for every prompt.
        certify: Samples that the claim is tested on; without them nothing is certified.
        report: Samples that are scored once, at the end.
    """

    tune: SplitSpec
    fit: SplitSpec | None = None
    certify: SplitSpec | None = None
    report: SplitSpec

    @model_validator(mode="before")
    @classmethod
    def _no_key_of_another_task(cls, data: Any) -> Any:
        name = data.get("name") if isinstance(data, Mapping) else None
        for key in data if name in tasks.names() else ():
            takers = [n for n in tasks.names() if key in tasks.find(n).options.model_fields]
            if takers and key not in cls.model_fields:
                raise ValueError(
                    f"{key!r} is a key of the task {' and '.join(map(repr, takers))}, not of "
                    f"{name!r}; remove it"
                )
        return data

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        for (a, one), (b, other) in combinations(self.splits().items(), 2):
            if one.overlaps(other):
                raise ValueError(
                    f"{a} and {b} overlap: both use samples of split {one.split!r} from "
                    f"{one.offset} and {other.offset} on; name another split or an offset past "
                    "the other's end"
                )
        return self

    def splits(self) -> dict[str, SplitSpec]:
        """Return the splits by the part they play."""
        found = {
            "tune": self.tune,
            "fit": self.fit,
            "certify": self.certify,
            "report": self.report,
        }
        return {name: spec for name, spec in found.items() if spec is not None}


class AlphaSection(StrictModel):
    """The alpha grid of the curves, and the alpha predictor fitted over it.

    Attributes:
        grid: Alphas of the curves and of the predictor.
        adaptive: Fit the alpha predictor on the fit split; by default where there is one.
        budgets: Budgets to fit it for; empty for all of the search.
    """

    grid: Annotated[Listed[Alpha], Field(min_length=2), _Rising] = DEFAULT_GRID
    adaptive: bool = True
    budgets: Listed[Budget] = ()


class AdaptiveSection(StrictModel):
    """What an adaptive policy may choose for each prompt.

    Attributes:
        vary: Options marked per-prompt; ``alpha`` over the grid, others over what is searched.
    """

    vary: Annotated[Listed[str], Field(min_length=1)] = ("alpha",)

    @field_validator("vary")
    @classmethod
    def _per_prompt(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = methods.per_prompt_options()
        for name in value:
            if name not in known:
                raise ValueError(
                    f"{name!r} cannot be chosen for each prompt. {near_names(name, known)}"
                )
        return value


class ReportSection(StrictModel):
    """What the report shows.

    Attributes:
        examples: Report-split samples drawn with their kept tokens.
    """

    examples: int = Field(default=6, ge=0, le=50)


class StorageSection(StrictModel):
    """Where run folders live.

    Attributes:
        runs: Folder of run folders, relative to where the command runs.
    """

    runs: Annotated[PathName, Field(min_length=1)] = "runs"


class StudyConfig(StrictModel):
    """A validated study.

    Attributes:
        study: Name, seed, trials, objective.
        backbone: The model.
        task: The task, splits and metric.
        search: The search space.
        alpha: The alpha grid and the predictor.
        adaptive: What the predictor chooses among.
        report: What the report shows.
        storage: Where run folders live.
    """

    study: StudySection
    backbone: BackboneSection
    task: TaskSection
    search: SearchSection = SearchSection()
    alpha: AlphaSection = AlphaSection()
    adaptive: AdaptiveSection = AdaptiveSection()
    report: ReportSection = ReportSection()
    storage: StorageSection = StorageSection()

    @model_validator(mode="before")
    @classmethod
    def _adaptive_where_it_is_asked_for(cls, data: dict[str, Any]) -> Any:
        """Ask for a predictor where there is a fit split, or a key that is about it alone."""
        task, alpha = (data.get(key) or {} for key in ("task", "alpha"))
        tables = isinstance(task, Mapping) and isinstance(alpha, Mapping)
        if not tables or "fit" in task or "adaptive" in alpha or alpha.get("budgets"):
            return data
        return {**data, "alpha": {**alpha, "adaptive": False}}

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if not self.budgets():
            raise ValueError("search.budget is missing; list the budgets, such as [22, 11, 6]")
        if self.alpha.adaptive and self.task.fit is None:
            raise ValueError(
                "task.fit is missing: the alpha predictor needs a fit split of its own; add "
                "fit = {split = ..., samples = ...} or set alpha.adaptive = false"
            )
        for method, budget in product(self.search.method, self.budgets()):
            try:
                Setting.of(method, budget)
            except ConfigError as error:
                problem = str(error).removeprefix("setting: ")
                raise ValueError(f"search.budget: {budget}: {problem}") from None
        later = self.search.later
        for budget in self.budgets() if later is not None else ():
            assert later is not None
            alike = isinstance(budget, Ratio) == isinstance(later.budget, Ratio)
            if alike and budget.limit(_MANY) < later.budget.limit(_MANY):
                raise ValueError(
                    f"search.budget: {budget} is below the {later.budget} that search.later "
                    "leaves in the end; lower later.budget, or leave that budget out"
                )
        if self.study.trials < len(self.budgets()):
            raise ValueError(
                f"study.trials: {self.study.trials} are fewer than the {len(self.budgets())} "
                "budgets; give at least one a budget"
            )
        self._check_claim()
        if all(methods.get(name).stage == "image" for name in self.search.method):
            raise ValueError(
                "search.method: what these methods choose cannot be deployed, only compared with; "
                f"add one that chooses tokens ({', '.join(methods.names('tokens'))})"
            )
        strangers = [b for b in self.alpha.budgets if b not in self.budgets()]
        if strangers:
            raise ValueError(
                f"alpha.budgets: {', '.join(map(str, strangers))} not among the budgets "
                f"{', '.join(map(str, self.budgets()))}"
            )
        return self

    def _check_claim(self) -> None:
        objective, certify = self.study.objective, self.task.certify
        metric = metrics.get(self.task.metric)
        if objective.clip is not None and metric.bounded:
            raise ValueError(
                f"study.objective.clip: {metric.name} lies from 0 to 1 as it is; remove the key"
            )
        if certify is None:
            if isinstance(objective, Certified):
                raise ValueError(
                    "task.certify is missing: the objective 'certified' tests its claim on a split "
                    "of its own; add certify = {split = ..., samples = 600, questions_per_image "
                    "= 1}, or choose another objective"
                )
            return
        if not metric.bounded and objective.clip is None:
            raise ValueError(
                f"study.objective.clip is missing: {metric.name} has no least value, and a claim "
                "about the mean of such scores cannot be tested; name one, such as -6.0 nats"
            )
        if (
            isinstance(objective, Certified)
            and objective.scale == "relative"
            and not metric.bounded
        ):
            raise ValueError(
                f"study.objective.scale: a share of {metric.name} means nothing; set 'absolute'"
            )

    def budgets(self) -> tuple[Budget, ...]:
        """Return the budgets of the study: those searched, or the objective's own."""
        objective = self.study.objective
        return (objective.budget,) if isinstance(objective, FixedBudget) else self.search.budget

    def changed_since(self, older: StudyConfig) -> list[str]:
        """List the keys that may not change while a study is resumed but did.

        The number of trials, the fit, certify and report splits, the grid and the report may
        change: no trial depends on them, and what was chosen before a certify or report split was
        opened is recorded (``tuner.openings``).
        """
        kept = {
            "study": ["seed", "objective"],
            "backbone": ["model", "family", "revision", "dtype", "text_model"],
            "task": [
                key
                for key in type(self.task).model_fields
                if key not in ("fit", "certify", "report")
            ],
            "search": list(SearchSection.model_fields),
        }
        return [
            f"{section}.{key}"
            for section, keys in kept.items()
            for key in keys  # an older study of another task has no such key
            if getattr(getattr(self, section), key) != getattr(getattr(older, section), key, None)
        ]


def schema_for(data: Mapping[str, Any]) -> type[StudyConfig]:
    """Return the schema of a study about the task it names, or of any where it names none."""
    task = data.get("task")
    name = task.get("name") if isinstance(task, Mapping) else None
    return _about(name) if name in tasks.names() else StudyConfig


@cache
def _about(task: str) -> type[StudyConfig]:
    section = create_model("TaskSection", __base__=(tasks.find(task).options, TaskSection))
    return create_model("StudyConfig", __base__=StudyConfig, task=(section, ...))
