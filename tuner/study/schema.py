"""The sections and keys of a study, and how they hang together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    create_model,
    field_validator,
    model_validator,
)

from resprune.config import ALPHA_MAX, Normalization, Pooling, Positions, SeedStrategy
from resprune.errors import near_names
from resprune.validation import StrictModel
from tuner import tasks
from tuner.paths import FolderName
from tuner.study.budget import Budget, counts_of


def _check_alpha(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 <= value <= ALPHA_MAX:
        return float(value)
    raise ValueError(f"alpha {value!r} is out of range; give numbers from 0 to {ALPHA_MAX:g}")


def _each_once(value: Any) -> Any:
    """Make a list of a value alone, and refuse one that comes twice."""
    values = value if isinstance(value, tuple) else (value,)
    if len(set(map(repr, values))) != len(values):
        raise ValueError(f"{list(values)} lists a value twice; keep each once")
    return values


def _sorted(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted(values))


Alpha = Annotated[float, BeforeValidator(_check_alpha)]
_Each = BeforeValidator(_each_once)
_Some = Field(min_length=1)
DEFAULT_GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
Alphas = Annotated[tuple[Alpha, ...], _Some, _Each]


class SplitSpec(StrictModel):
    """Samples of the task that play one part in the study.

    Attributes:
        split: Name of the task's split.
        samples: How many, from ``offset`` on.
        offset: How many samples of the split to skip.
    """

    split: str = Field(min_length=1)
    samples: int = Field(ge=1)
    offset: int = Field(default=0, ge=0)

    def overlaps(self, other: SplitSpec) -> bool:
        """Say whether both name a sample in common."""
        ends = self.offset + self.samples, other.offset + other.samples
        return self.split == other.split and self.offset < ends[1] and other.offset < ends[0]


class ObjectiveSpec(StrictModel):
    """What the study looks for.

    Attributes:
        kind: ``pareto`` (score against kept tokens), ``fixed-budget`` (the best score at one
            budget) or ``quality-floor`` (the fewest tokens that keep a share of the unpruned
            score).
        tolerance: ``pareto``: how much below the unpruned tune score the recommended budget may
            be, as a share of that score (for log-likelihood: nats).
        budget: ``fixed-budget``: visual tokens to keep, a count or a ratio.
        keep: ``quality-floor``: the share to keep, above 0 and at most 1 (for log-likelihood:
            ``1 - keep`` nats may be lost).
    """

    kind: Literal["pareto", "fixed-budget", "quality-floor"] = "pareto"
    tolerance: float = Field(default=0.02, ge=0.0, le=1.0)
    budget: Budget | None = None
    keep: float | None = Field(default=None, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        for key, kind in (("budget", "fixed-budget"), ("keep", "quality-floor")):
            given = getattr(self, key) is not None
            if given and self.kind != kind:
                raise ValueError(f"{key} belongs to the objective {kind!r}, not {self.kind!r}")
            if self.kind == kind and not given:
                raise ValueError(f"the objective {kind!r} needs the key {key!r}")
        return self


class StudySection(StrictModel):
    """Name, seed, number of trials and objective.

    Attributes:
        name: Name of the run folder: letters, digits, ``-``, ``_`` and ``.``.
        seed: Seed of everything random.
        trials: Trials in all, those before an interruption included.
        objective: A table with ``kind``, or the kind alone.
    """

    name: str
    seed: int = Field(default=0, ge=0)
    trials: int = Field(default=60, ge=1)
    objective: ObjectiveSpec = ObjectiveSpec()

    @field_validator("name")
    @classmethod
    def _a_folder_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", value):
            raise ValueError(
                f"{value!r} cannot name a run folder; use letters, digits, '-', '_' and '.'"
            )
        return value

    @field_validator("objective", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


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
    """

    model: Annotated[FolderName, Field(min_length=1)]
    family: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    attn: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    batch_size: int = Field(default=32, ge=1)

    @field_validator("family")
    @classmethod
    def _known_family(cls, value: str | None) -> str | None:
        if value is None:
            return value
        from resprune import backbones

        if value not in backbones.names():
            raise ValueError(f"unknown backbone {value!r}. {near_names(value, backbones.names())}")
        return value


class TaskSection(tasks.TaskOptions):
    """The splits of a task, beside the keys of every task; its own keys join in ``schema_for``.

    Attributes:
        tune: Samples that choose settings.
        fit: Samples that fit the alpha predictor; without them alpha is the same for every prompt.
        report: Samples that are scored once, at the end.
    """

    tune: SplitSpec
    fit: SplitSpec | None = None
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
        found = {"tune": self.tune, "fit": self.fit, "report": self.report}
        return {name: spec for name, spec in found.items() if spec is not None}


class AlphaRange(StrictModel):
    """A range of alpha to search.

    Attributes:
        low: Least alpha, 0 or more.
        high: Greatest alpha, at most 16.
        step: Resolution.
    """

    low: Alpha = 0.0
    high: Alpha = 4.0
    step: float = Field(default=0.05, gt=0.0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self


_ALPHAS = TypeAdapter(Alphas, config=ConfigDict(strict=True))


class SearchSection(StrictModel):
    """The search space.

    Attributes:
        alpha: A range ``{low, high, step}`` or a list.
        seed_strategy: Seed strategies to try.
        budget: Budgets to tune for: counts, or ratios of each image's own T. May be left out
            for the objective ``fixed-budget``, which names its own.
        pooling: Relevance poolings to try; the first is used where no trial chooses.
        normalization: Relevance normalisations to try; the first likewise.
        positions: Position policies to try; the first likewise.
    """

    alpha: AlphaRange | tuple[float, ...] = AlphaRange()
    seed_strategy: Annotated[tuple[SeedStrategy, ...], _Some, _Each] = ("cls_attention", "l2_norm")
    budget: Annotated[tuple[Budget, ...], _Each] = ()
    pooling: Annotated[tuple[Pooling, ...], _Some, _Each] = ("max",)
    normalization: Annotated[tuple[Normalization, ...], _Some, _Each] = ("minmax",)
    positions: Annotated[tuple[Positions, ...], _Some, _Each] = ("keep",)

    @field_validator("alpha", mode="before")
    @classmethod
    def _range_or_list(cls, value: Any) -> Any:
        # chosen here, since pydantic would report on both
        if isinstance(value, AlphaRange | Mapping):
            return AlphaRange.model_validate(value)
        return _ALPHAS.validate_python(value)

    def covers(self, alpha: float, seed_strategy: str) -> bool:
        """Say whether a setting lies inside the search space."""
        if isinstance(self.alpha, AlphaRange):
            inside = self.alpha.low <= alpha <= self.alpha.high
        else:
            inside = alpha in self.alpha
        return inside and seed_strategy in self.seed_strategy


class AlphaSection(StrictModel):
    """The alpha grid of the curves, and the alpha predictor fitted over it.

    Attributes:
        grid: Alphas of the curves and of the predictor.
        adaptive: Fit the alpha predictor on the fit split; by default where there is one.
        budgets: Budgets to fit it for; empty for all of the search.
    """

    grid: Annotated[tuple[Alpha, ...], Field(min_length=2), AfterValidator(_sorted), _Each] = (
        DEFAULT_GRID
    )
    adaptive: bool = True
    budgets: Annotated[tuple[Budget, ...], _Each] = ()


class ReportSection(StrictModel):
    """What the report shows.

    Attributes:
        examples: Report-split samples drawn with their kept tokens.
        resamples: Bootstrap resamples of every interval.
    """

    examples: int = Field(default=6, ge=0, le=50)
    resamples: int = Field(default=2000, ge=100, le=100_000)


class StorageSection(StrictModel):
    """Where run folders live.

    Attributes:
        runs: Folder of run folders, relative to where the command runs.
    """

    runs: str = "runs"


class StudyConfig(StrictModel):
    """A validated study.

    Attributes:
        study: Name, seed, trials, objective.
        backbone: The model.
        task: The task, splits and metric.
        search: The search space.
        alpha: The alpha grid and the predictor.
        report: What the report shows.
        storage: Where run folders live.
    """

    study: StudySection
    backbone: BackboneSection
    task: TaskSection
    search: SearchSection = SearchSection()
    alpha: AlphaSection = AlphaSection()
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
        strangers = [b for b in self.alpha.budgets if b not in self.budgets()]
        if strangers:
            raise ValueError(
                f"alpha.budgets {strangers} are not among the budgets {list(self.budgets())}"
            )
        return self

    def budgets(self) -> tuple[int | float, ...]:
        """Return the budgets of the study: those searched, or the objective's own."""
        objective = self.study.objective
        if objective.budget is not None:
            return (objective.budget,)
        return self.search.budget

    def varies(self, visual_tokens: int | None) -> bool:
        """Say whether a budget is another count for each image: a ratio of a T that varies."""
        return visual_tokens is None and any(isinstance(b, float) for b in self.budgets())

    def counts(
        self, visual_tokens: int | None, where: str = "study", lengths: Sequence[int] = ()
    ) -> dict[int | float, int]:
        """Turn the budgets into counts of tokens.

        Args:
            visual_tokens: T of the model where it is fixed, else None.
            where: Name of the study, for messages.
            lengths: T of each sample's image where T varies, which ratios need.

        Returns:
            Count by budget, in the study's order; of a ratio where T varies, the mean count.

        Raises:
            StudyError: A count over the fixed T, two budgets that are the same count, or a ratio
                where neither T nor lengths are given.
        """
        return counts_of(self.budgets(), visual_tokens, where, lengths)

    def changed_since(self, older: StudyConfig) -> list[str]:
        """List the keys that may not change while a study is resumed but did.

        The number of trials, the fit and report splits, the grid and the report may change: no
        trial depends on them.
        """
        search, task = type(self.search).model_fields, type(self.task).model_fields
        found = []
        for section, keys in {
            "study": ("seed", "objective"),
            "backbone": ("model", "family", "revision", "dtype"),
            "task": [key for key in task if key not in ("fit", "report")],
            "search": list(search),
        }.items():
            mine, its = getattr(self, section), getattr(older, section)
            found += [
                f"{section}.{key}"
                for key in keys
                if getattr(mine, key) != getattr(its, key, None)  # of another task: no such key
            ]
        return found


def schema_for(data: Mapping[str, Any]) -> type[StudyConfig]:
    """Return the schema of a study about the task it names, or of any where it names none."""
    task = data.get("task")
    name = task.get("name") if isinstance(task, Mapping) else None
    return _about(name) if name in tasks.names() else StudyConfig


@cache
def _about(task: str) -> type[StudyConfig]:
    section = create_model("TaskSection", __base__=(tasks.find(task).options, TaskSection))
    return create_model("StudyConfig", __base__=StudyConfig, task=(section, ...))
