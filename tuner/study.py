"""A study: the TOML file that says what is tuned, on which samples, over which settings.

``resprune-tune validate FILE`` checks one. Every wrong value is a ``StudyError`` that names the
file, the key, the value and the fix.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from resprune.config import ALPHA_MAX, Normalization, Pooling, Positions, SeedStrategy
from resprune.errors import StudyError, near_names
from resprune.validation import StrictModel, explain

STUDY_FILE = "study.toml"
MAX_STUDY_BYTES = 2**20
SPLIT_NAMES = ("tune", "fit", "report")
DEFAULT_GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)

Alpha = Annotated[float, Field(ge=0.0, le=ALPHA_MAX)]
Budget = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0.0, le=1.0)]
Metric = Literal["score", "log_likelihood", "fidelity"]


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

    @field_validator("budget", mode="before")
    @classmethod
    def _a_budget(cls, value: Any) -> Any:
        if value is not None:
            check_budget(value)
        return value

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

    model: str = Field(min_length=1)
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


class ColumnSpec(StrictModel):
    """Which columns of a ``hub-vqa`` data set hold what.

    Attributes:
        image: The image.
        question: The question.
        answers: One answer, or a list of them.
        image_id: Shared by the questions about the same image; a hash of the image where None.
        id: Unique within a split; the row's number where None.
        group: Question type, for reporting only.
    """

    image: str = "image"
    question: str = "question"
    answers: str = "answers"
    image_id: str | None = None
    id: str | None = None
    group: str | None = None


class TaskSection(StrictModel):
    """The task, its splits and the metric.

    Attributes:
        name: A registered task (``resprune-tune ls tasks``).
        folder: Folder of a ``jsonl`` task; relative to the study file.
        dataset: Data set of a ``hub-vqa`` task: a hub id, or a folder relative to the study file.
        config: Configuration of that data set.
        revision: Hub revision of that data set.
        columns: Which of its columns hold what.
        scorer: ``vqa`` (accuracy against ten annotators, the default) or ``exact``.
        question_transform: ``capitalize`` (first letter upper, the rest lower) or ``none``.
        metric: ``score`` (the task's own), ``log_likelihood`` of the gold answer, or ``fidelity``
            (agreement with the unpruned model's own answers; needs no gold answers).
        tune: Samples that choose settings.
        fit: Samples that fit the alpha predictor; not needed when ``alpha.adaptive`` is false.
        report: Samples that are scored once, at the end.
        max_new_tokens: Tokens to generate; None for the task's own.
        answer_format: What is appended to the question; None for the task's own.
    """

    name: str
    folder: str | None = None
    dataset: str | None = None
    config: str | None = None
    revision: str | None = None
    columns: ColumnSpec | None = None
    scorer: Literal["vqa", "exact"] | None = None
    question_transform: Literal["capitalize", "none"] | None = None
    metric: Metric = "score"
    tune: SplitSpec
    fit: SplitSpec | None = None
    report: SplitSpec
    max_new_tokens: int | None = Field(default=None, ge=1)
    answer_format: str | None = None

    @field_validator("name")
    @classmethod
    def _known_task(cls, value: str) -> str:
        from tuner import tasks

        if value not in tasks.names():
            raise ValueError(f"unknown task {value!r}. {near_names(value, tasks.names())}")
        return value

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        specs = self.splits()
        names = list(specs)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                if specs[a].overlaps(specs[b]):
                    raise ValueError(
                        f"{a} and {b} overlap: both use samples of split {specs[a].split!r} from "
                        f"{specs[a].offset} and {specs[b].offset} on; name another split or an "
                        "offset past the other's end"
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


def _check_names(values: Any, allowed: Iterable[str], what: str) -> Any:
    for value in values if isinstance(values, tuple) else ():
        if value not in allowed:
            raise ValueError(f"unknown {what} {value!r}. {near_names(str(value), allowed)}")
    return values


def _distinct(values: Any) -> Any:
    if isinstance(values, tuple) and len(set(map(repr, values))) != len(values):
        raise ValueError(f"{list(values)} lists a value twice; keep each once")
    return values


_Distinct = BeforeValidator(_distinct)


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

    alpha: AlphaRange | Annotated[tuple[Alpha, ...], Field(min_length=1), _Distinct] = AlphaRange()
    seed_strategy: Annotated[tuple[SeedStrategy, ...], Field(min_length=1), _Distinct] = (
        "cls_attention",
        "l2_norm",
    )
    budget: Annotated[tuple[Budget, ...], _Distinct] = ()
    pooling: Annotated[tuple[Pooling, ...], Field(min_length=1), _Distinct] = ("max",)
    normalization: Annotated[tuple[Normalization, ...], Field(min_length=1), _Distinct] = (
        "minmax",
    )
    positions: Annotated[tuple[Positions, ...], Field(min_length=1), _Distinct] = ("keep",)

    @field_validator("alpha", mode="before")
    @classmethod
    def _range_or_list(cls, value: Any) -> Any:
        if isinstance(value, AlphaRange):
            return value
        if isinstance(value, Mapping):
            for key, alpha in value.items():
                if key not in AlphaRange.model_fields:
                    raise ValueError(
                        f"unknown key {key!r}. {near_names(str(key), AlphaRange.model_fields)}"
                    )
                if key != "step":
                    _check_alpha(alpha)
            if value.get("low", 0.0) >= value.get("high", 4.0):
                raise ValueError(f"low {value.get('low', 0.0)} is not below high {value['high']}")
            return value
        values = value if isinstance(value, tuple) else (value,)
        for alpha in values:
            _check_alpha(alpha)
        return values

    @field_validator("seed_strategy", mode="before")
    @classmethod
    def _known_strategy(cls, value: Any) -> Any:
        return _check_names(value, get_args(SeedStrategy), "seed strategy")

    @field_validator("budget", mode="before")
    @classmethod
    def _budgets(cls, value: Any) -> Any:
        for budget in value if isinstance(value, tuple) else (value,):
            check_budget(budget)
        return value if isinstance(value, tuple) else (value,)

    def covers(self, alpha: float, seed_strategy: str) -> bool:
        """Say whether a setting lies inside the search space."""
        if isinstance(self.alpha, AlphaRange):
            inside = self.alpha.low <= alpha <= self.alpha.high
        else:
            inside = alpha in self.alpha
        return inside and seed_strategy in self.seed_strategy


def _check_alpha(value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= ALPHA_MAX:
        raise ValueError(f"alpha {value!r} is out of range; give numbers from 0 to {ALPHA_MAX:g}")


def check_budget(value: Any) -> None:
    """Check one budget.

    Raises:
        ValueError: Not a count of at least 1 nor a ratio above 0 and at most 1.
    """
    count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    ratio = isinstance(value, float) and 0.0 < value <= 1.0
    if not (count or ratio):
        raise ValueError(
            f"budget {value!r} is out of range; give a count of at least 1 token (such as 22) or "
            "a ratio above 0 and at most 1.0 (such as 0.11)"
        )


class AlphaSection(StrictModel):
    """The alpha grid of the curves, and the alpha predictor fitted over it.

    Attributes:
        grid: Alphas of the curves and of the predictor.
        adaptive: Fit the alpha predictor on the fit split.
        budgets: Budgets to fit it for; empty for all of the search.
    """

    grid: Annotated[tuple[Alpha, ...], Field(min_length=2), _Distinct] = DEFAULT_GRID
    adaptive: bool = True
    budgets: Annotated[tuple[Budget, ...], _Distinct] = ()

    @field_validator("grid", mode="before")
    @classmethod
    def _alphas(cls, value: Any) -> Any:
        for alpha in value if isinstance(value, tuple) else ():
            _check_alpha(alpha)
        return tuple(sorted(value)) if isinstance(value, tuple) else value

    @field_validator("budgets", mode="before")
    @classmethod
    def _budgets(cls, value: Any) -> Any:
        for budget in value if isinstance(value, tuple) else ():
            check_budget(budget)
        return value


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
        found: dict[int | float, int] = {}
        for budget in self.budgets():
            if isinstance(budget, float):
                each = lengths if visual_tokens is None else [visual_tokens]
                if not each:
                    raise StudyError(
                        f"{where}: search.budget: ratio {budget} is another count for each image; "
                        "its mean is known once the images are"
                    )
                kept = [max(1, round(budget * length)) for length in each]
                count = round(sum(kept) / len(kept))
            else:
                count = budget
                if visual_tokens is not None and count > visual_tokens:
                    raise StudyError(
                        f"{where}: search.budget: {count} is over the {visual_tokens} visual "
                        f"tokens of this model; give counts from 1 to {visual_tokens}"
                    )
            if count in found.values():
                raise StudyError(
                    f"{where}: search.budget: {budget} is {count} tokens, which another budget "
                    "already is; keep one of them"
                )
            found[budget] = count
        return found

    def changed_since(self, older: StudyConfig) -> list[str]:
        """List the keys that may not change while a study is resumed but did.

        The number of trials, the fit and report splits, the grid and the report may change: no
        trial depends on them.
        """
        found = []
        for section, keys in {
            "study": ("seed", "objective"),
            "backbone": ("model", "family", "revision", "dtype"),
            "task": tuple(key for key in TaskSection.model_fields if key not in ("fit", "report")),
            "search": tuple(SearchSection.model_fields),
        }.items():
            mine, its = getattr(self, section), getattr(older, section)
            found += [f"{section}.{key}" for key in keys if getattr(mine, key) != getattr(its, key)]
        return found


def study_names() -> list[str]:
    """Return the names of the shipped studies."""
    files = resources.files("studies").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def find_study(name_or_path: str) -> Path:
    """Find a study file.

    Args:
        name_or_path: Path of a TOML file, or the name of a shipped study.

    Returns:
        Its path.

    Raises:
        StudyError: There is none; near names are suggested.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix == ".toml" or os.sep in name_or_path:
        raise StudyError(
            f"{name_or_path}: no such file; give a study file or a shipped study's "
            f"name: {', '.join(study_names())}"
        )
    if name_or_path not in study_names():
        raise StudyError(
            f"no study is called {name_or_path!r}. {near_names(name_or_path, study_names())} "
            "Or give the path of a TOML file."
        )
    return Path(str(resources.files("studies") / f"{name_or_path}.toml"))


def load_study(path: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> StudyConfig:
    """Read and validate a study file.

    Args:
        path: A TOML file.
        overrides: Values by section and key that take the place of the file's (the command
            line's).

    Returns:
        The study; relative folders of it are resolved against the file.

    Raises:
        StudyError: Unreadable, not TOML, or wrong; the message names the file, key and fix.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_STUDY_BYTES:
            raise StudyError(f"{path}: larger than {MAX_STUDY_BYTES} bytes; not a study file")
        data = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise StudyError(
            f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path}: not valid TOML: {error}") from None
    return study_from_dict(data, where=str(path), base=path.parent, overrides=overrides)


def study_from_dict(
    data: Mapping[str, Any],
    *,
    where: str = "study",
    base: Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> StudyConfig:
    """Validate plain data; see ``load_study``."""
    merged: dict[str, Any] = dict(data)
    for section, values in (overrides or {}).items():
        known = merged.get(section)
        merged[section] = _merge(known if isinstance(known, Mapping) else {}, values)
    if base is not None:
        _resolve(merged, base)
    try:
        return StudyConfig.model_validate(_frozen(merged))
    except ValidationError as error:
        raise StudyError(f"{where}: {explain(error, StudyConfig)}") from None


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        inner = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        merged[key] = _merge(inner, value) if both and inner is not None else value
    return merged


def _resolve(data: dict[str, Any], base: Path) -> None:
    """Make the folders of a study independent of where the command runs."""
    for section, key in (("backbone", "model"), ("task", "folder"), ("task", "dataset")):
        values = data.get(section)
        if isinstance(values, Mapping) and isinstance(values.get(key), str):
            folder = base / values[key]
            if folder.is_dir() or values[key].startswith("."):
                data[section] = {**values, key: str(folder.resolve())}


def _frozen(value: Any) -> Any:
    """Turn TOML's lists into tuples, which the strict models ask for."""
    if isinstance(value, Mapping):
        return {key: _frozen(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_frozen(inner) for inner in value)
    return value


def dump_study(study: StudyConfig) -> str:
    """Write a study as TOML that ``load_study`` reads back to the same study."""
    lines = ["# The study as it ran, with every default and command-line override filled in."]
    for section, values in study.model_dump(mode="json", exclude_none=True).items():
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(_ESCAPES.get(c, c) for c in value) + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


_ESCAPES = {'"': '\\"', "\\": "\\\\"} | {chr(code): f"\\u{code:04x}" for code in (*range(32), 127)}
