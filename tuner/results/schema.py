"""``results.json``: what a study found, the contract between run, export and report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resprune.budget import Budget
from resprune.certificate import Certificate
from resprune.errors import ConfigError, StudyError
from resprune.files import read_json, write_json
from resprune.setting import Adaptive, Policy, Setting
from resprune.validation import explain
from tuner.results.efficiency import Efficiency
from tuner.results.rows import RowKind

RESULTS_FILE = "results.json"
RESULTS_SCHEMA = 4


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Row):
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


Verdict = Literal["better", "worse", "within noise", "too few images"]


class Comparison(Interval):
    """A paired difference with its plain 95 % interval, judged with all others of the report.

    Attributes:
        against: What the score is held against, such as "all tokens" or "l2_norm".
        verdict: Whether the difference is more than chance; see ``tuner.results.verdicts.judge``.
    """

    against: str
    verdict: Verdict


class SplitInfo(_Row):
    """Which samples a split held."""

    name: str
    samples: int
    images: int


class TrialResult(_Row):
    """One trial of the study, scored on the tune split.

    Attributes:
        number: Within its method's trials, from 0.
        setting: What was tried.
        tokens: Mean count of visual tokens it keeps on the tune split.
        cost: Those averaged over the decoder layers too; ``tokens`` unless it acts inside the LLM.
        score: Mean score.
        seconds: What it took.
    """

    number: int
    setting: Setting
    tokens: int
    cost: float
    score: float
    seconds: float


class Row(_Row):
    """A policy scored on one split; differences are paired.

    Attributes:
        kind: What it is in the study; a key of `tuner.results.rows.KINDS`.
        policy: What was scored.
        tokens: Mean count of visual tokens it keeps on the tune split, None for all of them.
        cost: Those averaged over the decoder layers too, None for all of them.
        notes: What differs from how its method inside the LLM was published, such as 'scaled'.
        score: Mean score.
        versus_unpruned: Minus the unpruned model's, on the report split.
        versus_strongest: Minus that of the strongest baseline at the same budget, the one with the
            highest mean on the report split itself; of what was searched.
        by_group: Score by question type.
        measures: What the task measures of all answers together, by its names, such as F1.
    """

    kind: RowKind
    policy: Policy
    tokens: int | None
    cost: float | None
    notes: tuple[str, ...] = ()
    score: Interval
    versus_unpruned: Comparison | None = None
    versus_strongest: Comparison | None = None
    by_group: dict[str, Interval] = Field(default_factory=dict)
    measures: dict[str, float] = Field(default_factory=dict)


class Curve(_Row):
    """Score over the values of one option, all else equal.

    Attributes:
        setting: The setting varied; its own value of the option is not read.
        option: Name of the option.
        tokens: Mean count of visual tokens kept on the tune split.
        split: Split it was scored on.
        values: V values, rising.
        scores: Mean score of each.
        standard_errors: Of each mean.
    """

    setting: Setting
    option: str
    tokens: int
    split: str
    values: list[float]
    scores: list[float]
    standard_errors: list[float]


class Chosen(_Row):
    """What the study chose for one budget, on the tune split alone.

    Attributes:
        policy: What is exported: the setting, or arms where choosing by prompt gains.
        setting: The best setting for all prompts.
        tokens: Mean count of visual tokens it keeps on the tune split.
        cost: Those averaged over the decoder layers too.
        notes: As of its row.
        tune_score: Score of ``setting`` there.
    """

    policy: Policy
    setting: Setting
    tokens: int
    cost: float
    notes: tuple[str, ...] = ()
    tune_score: Interval


class AdaptiveRow(_Row):
    """An adaptive policy that was adopted, against its bounds at one budget, on the report split.

    Attributes:
        policy: The arms, and the fallback: the best fixed arm of the fit split.
        tokens: Mean count of visual tokens kept on the tune split.
        best_fixed: Score of the fallback.
        adaptive: Score of the arms that the predictor chooses.
        by_group_arm: Best arm of each question type on the fit split, an index.
        best_per_group: Score of those.
        oracle: Score of the best arm of each sample, known from its answers.
        versus_best_fixed: Minus that of the best fixed policy of any method at the budget, chosen
            on the tune split among the tuned setting, the rivals and the baselines.
        adaptive_minus_fixed: Minus ``best_fixed``.
        group_minus_fixed: Minus ``best_fixed``.
        oracle_minus_fixed: Minus ``best_fixed``; no verdict, since it cannot be below.
        strength: Trust in the predictor, 0 (the fallback for every prompt) to 1.
        outside: How many report samples got the fallback since their prompt is unlike those that
            the predictor was fitted on.
        chosen: How many samples each arm was chosen for.
    """

    policy: Adaptive
    tokens: int
    best_fixed: Interval
    adaptive: Interval
    by_group_arm: dict[str, int]
    best_per_group: Interval
    oracle: Interval
    versus_best_fixed: Comparison
    adaptive_minus_fixed: Comparison
    group_minus_fixed: Comparison
    oracle_minus_fixed: Interval
    strength: float
    outside: int
    chosen: list[int]


class FeatureWeight(_Row):
    """How much one prompt-specificity feature moves the predicted losses."""

    name: str
    weight: float


class KeptPanel(_Row):
    """The visual tokens one setting kept on an example, as boxes in image pixels.

    Attributes:
        kind: The policy's row; a key of `tuner.results.rows.KINDS`.
        setting: The setting used: the policy's own, or the arm chosen for this prompt.
        kept: Sorted indices of the kept tokens.
        boxes: x0, y0, x1, y1 of each.
        prediction: The answer given.
    """

    kind: RowKind
    setting: Setting
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
    text_model: str | None = None


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
    splits: dict[Literal["tune", "fit", "certify", "report"], SplitInfo]
    groups: list[str]
    trials: list[TrialResult]
    baselines: list[Row]
    importances: dict[str, list[str]]
    curves: list[Curve]
    chosen: list[Chosen]
    recommended: Budget
    certificate: Certificate | None = None
    report_openings: int = 1
    report: list[Row]
    adaptive: list[AdaptiveRow]
    feature_weights: list[FeatureWeight]
    examples: list[KeptExample]
    efficiency: Efficiency | None = None
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
            problem = explain(error, cls)
            raise StudyError(f"{path}: {problem}; run the study again to write it anew") from None
