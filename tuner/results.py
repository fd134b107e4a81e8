"""``results.json``: what a study found, the contract between run, export and report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resprune.config import Positions
from resprune.errors import ConfigError, StudyError
from resprune.files import read_json, write_json

RESULTS_FILE = "results.json"
RESULTS_SCHEMA = 1


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Row):
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


class SplitInfo(_Row):
    """Which samples a split held."""

    name: str
    samples: int
    images: int


class TrialResult(_Row):
    """One trial of the study, scored on the tune split."""

    number: int
    params: dict[str, float | int | str]
    budget: int
    score: float
    state: str
    seconds: float


class Baseline(_Row):
    """A setting outside the search space, scored on the tune split."""

    name: Literal["unpruned", "random", "paper-default"]
    budget: int | None
    alpha: float | None = None
    seed_strategy: str | None = None
    score: Interval


class AlphaCurve(_Row):
    """Score over the alpha grid for one seed strategy and budget."""

    budget: int
    seed_strategy: str
    split: str
    alphas: list[float]
    scores: list[float]
    standard_errors: list[float]


class ChosenConfig(_Row):
    """What the study chose for one budget, on the tune split alone.

    Where T varies and the study's budget is a ratio, ``budget`` is the mean count that it keeps on
    the tune split, and ``ratio`` is what the export holds.
    """

    budget: int
    ratio: float | None = None
    alpha: float | Literal["adaptive"]
    fixed_alpha: float
    seed_strategy: str
    pooling: str
    normalization: str
    positions: Positions
    tune_score: Interval

    @property
    def deployed_budget(self) -> int | float:
        """The budget as the pruning config has it: a count, or a ratio of each image's T."""
        return self.budget if self.ratio is None else self.ratio


class ReportRow(_Row):
    """One setting scored once on the report split; differences are paired."""

    name: Literal[
        "unpruned", "random", "paper-default", "tuned", "adaptive", "relevance-only", "alpha-0"
    ]
    label: str
    budget: int | None
    alpha: float | str | None = None
    seed_strategy: str | None = None
    score: Interval
    versus_unpruned: Interval | None = None
    versus_paper: Interval | None = None
    by_group: dict[str, Interval] = Field(default_factory=dict)


class AdaptiveRow(_Row):
    """Adaptive alpha against its bounds at one budget, on the report split."""

    budget: int
    best_fixed_alpha: float
    best_fixed: Interval
    adaptive: Interval
    by_group_alpha: dict[str, float]
    best_per_group: Interval
    oracle: Interval
    adaptive_minus_fixed: Interval
    group_minus_fixed: Interval
    oracle_minus_fixed: Interval
    strength: float
    alpha_histogram: dict[str, int]


class FeatureWeight(_Row):
    """How much one prompt-specificity feature moves the predicted losses."""

    name: str
    weight: float


class KeptPanel(_Row):
    """The visual tokens one setting kept on an example, as boxes in image pixels."""

    label: str
    budget: int
    alpha: float
    kept: list[int]
    boxes: list[tuple[float, float, float, float]]
    prediction: str


class KeptExample(_Row):
    """One report-split sample with what each setting kept of it."""

    question: str
    answer: str
    nouns: list[str]
    image_png_base64: str
    panels: list[KeptPanel]


class Cost(_Row):
    """What the study cost."""

    seconds: dict[str, float]
    encoder_calls: int
    prefills: int
    memo_hits: int
    trials: int


class ModelInfo(_Row):
    """The model that was tuned."""

    id: str
    family: str
    revision: str | None
    visual_tokens: int | None
    width: int


class NounPipelineInfo(_Row):
    """The noun pipeline that the study used, pinned in the export."""

    name: str
    version: str


class Results(_Row):
    """Everything the export and the report are made from."""

    schema_version: int = RESULTS_SCHEMA
    study: dict[str, Any]
    environment: dict[str, str]
    model: ModelInfo
    noun_pipeline: NounPipelineInfo
    splits: dict[Literal["tune", "fit", "report"], SplitInfo]
    groups: list[str]
    trials: list[TrialResult]
    baselines: list[Baseline]
    importances: dict[str, float]
    curves: list[AlphaCurve]
    chosen: list[ChosenConfig]
    recommended_budget: int
    report: list[ReportRow]
    adaptive: list[AdaptiveRow]
    feature_weights: list[FeatureWeight]
    examples: list[KeptExample]
    cost: Cost
    notes: list[str]

    def save(self, run_dir: Path) -> None:
        """Write ``results.json`` into the run folder, beside and renamed."""
        write_json(run_dir / RESULTS_FILE, self.model_dump(mode="json"))

    @classmethod
    def load(cls, run_dir: str | os.PathLike[str]) -> Results:
        """Read ``results.json`` of a run folder.

        Raises:
            StudyError: Missing, damaged or written by a newer version; the message says what to
                do.
        """
        path = Path(run_dir) / RESULTS_FILE
        if not path.is_file():
            raise StudyError(f"{path}: not found; `resprune-tune run` writes it when a study ends")
        try:
            data = read_json(path)
            version = data.get("schema_version") if isinstance(data, dict) else None
            if isinstance(version, int) and version > RESULTS_SCHEMA:
                raise StudyError(
                    f"{path}: schema_version {version} is newer than {RESULTS_SCHEMA}, the newest "
                    "this version reads; upgrade resprune-tune"
                )
            return cls.model_validate(data)
        except ConfigError as error:
            raise StudyError(f"{error} (or run the study again)") from None
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise StudyError(
                f"{path}: {place}: {problem['msg']}; run the study again to write it anew"
            ) from None
