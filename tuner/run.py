"""Running a study from first trial to report: ``resprune-tune run STUDY``.

Baselines, trials and alpha curves use the tune split alone; the alpha predictor the fit split; the
report split is scored once, at the end, with what was chosen before.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resprune.alpha import PREDICTOR_FILE, AlphaPredictor
from resprune.backbones import Backbone
from resprune.errors import StudyError
from resprune.files import write_json
from resprune.selection import PromptReader
from resprune.version import __version__
from tuner import tasks
from tuner.alpha_fit import AlphaFit, fit_alpha
from tuner.cache import Memo, VisualCache, fingerprint, image_key
from tuner.choose import Candidate, choose_setting, floor_of, recommend
from tuner.compare import standard_error
from tuner.evaluate import Engine, Floats, Setting
from tuner.journal import only_one
from tuner.models import load_backbone, share_cores
from tuner.objective import JOURNAL_FILE, Scored, Search, paper_default
from tuner.proving import (
    Intervals,
    Panel,
    Proven,
    adaptive_kept,
    adaptive_row,
    kept_examples,
    random_scores,
    report_rows,
    verdicts,
)
from tuner.results import (
    AdaptiveRow,
    AlphaCurve,
    Baseline,
    ChosenConfig,
    Cost,
    FeatureWeight,
    ModelInfo,
    NounPipelineInfo,
    Results,
    SplitInfo,
    TrialResult,
)
from tuner.study import STUDY_FILE, StudyConfig, dump_study, load_study
from tuner.tasks import Sample, Task

OUTCOMES_FILE = "outcomes.jsonl"
CACHE_FOLDER = "cache"
_LEAST_LOG_LIKELIHOOD = -6.0  # below, a surrogate loss says no more than 'wrong'


class Progress(Protocol):
    """Who is told how a study gets on."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def step(self, done: int, total: int) -> None:
        """Some outcomes or images of the stage are done."""

    def trial(self, trial: TrialResult, done: int, total: int) -> None:
        """A trial is complete."""


class Silent:
    """Tells nobody."""

    def stage(self, name: str) -> None:
        """Do nothing."""

    def step(self, done: int, total: int) -> None:
        """Do nothing."""

    def trial(self, trial: TrialResult, done: int, total: int) -> None:
        """Do nothing."""


def run_study(study: StudyConfig, runs: Path, progress: Progress | None = None) -> Results:
    """Run a study, or resume it, and write ``results.json``, the config and the report.

    Args:
        study: The study.
        runs: Folder of run folders.
        progress: Told how it gets on.

    Returns:
        What was found, as in ``results.json``.

    Raises:
        ResPruneError: Bad input, a damaged file that cannot be mended, or an unwritable folder.
    """
    from tuner.export import export_run
    from tuner.report import write_report

    run_dir = runs / study.study.name
    with only_one(run_dir):
        _check_same(study, run_dir)
        run = _Run(study, run_dir, progress or Silent())
        try:
            _keep_study(study, run_dir)  # not before what it names is known to be there
            results = run.results()
        finally:
            run.memo.close()
        predictor = run.predictor()
        if predictor is not None:
            write_json(run_dir / PREDICTOR_FILE, predictor)
        results.save(run_dir)
        export_run(run_dir)
        write_report(run_dir)
    return results


def _check_same(study: StudyConfig, run_dir: Path) -> None:
    """Refuse to resume another study."""
    path = run_dir / STUDY_FILE
    if path.is_file() and (run_dir / JOURNAL_FILE).is_file():
        changed = study.changed_since(load_study(path))
        if changed:
            raise StudyError(
                f"{run_dir}: holds a study with other settings ({', '.join(changed)} differ); "
                "give this one another study.name, use --runs, or move the folder away"
            )


def _keep_study(study: StudyConfig, run_dir: Path) -> None:
    """Write the study as it runs into the run folder."""
    path = run_dir / STUDY_FILE
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(dump_study(study), encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise StudyError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def check_model(study: StudyConfig, backbone: Backbone) -> None:
    """Check what only the model can tell: budgets over T, and seed signals.

    Raises:
        ResPruneError: A budget over the fixed T, or a seed strategy the vision tower cannot give.
    """
    backbone.require_signals(
        [name for name in study.search.seed_strategy if name.endswith("_attention")]
    )
    if not study.varies(backbone.visual_tokens):
        study.counts(backbone.visual_tokens, study.study.name)


def load_samples(study: StudyConfig, task: Task) -> dict[str, list[Sample]]:
    """Load the splits and check that no image is in two of them.

    Raises:
        StudyError: A split that does not exist, or an image in two splits.
    """
    splits = {
        name: task.samples(spec.split, spec.samples, spec.offset)
        for name, spec in study.task.splits().items()
        if name != "fit" or study.alpha.adaptive
    }
    owner: dict[str, str] = {}
    for name, samples in splits.items():
        for sample in samples:
            other = owner.setdefault(sample.image_id, name)
            if other != name:
                raise StudyError(
                    f"task.{name}: image {sample.image_id!r} is in {other} too; splits must not "
                    "share images: move its samples into one of them"
                )
    return splits


@dataclass
class _Choice:
    """What was chosen for one budget on the tune split."""

    setting: Setting
    tune: Floats


class _Run:
    """One pass through a study."""

    def __init__(self, study: StudyConfig, run_dir: Path, progress: Progress) -> None:
        from resprune import NounExtractor

        self.study = study
        self.run_dir = run_dir
        self.progress = progress
        self.fit: AlphaFit | None = None
        self.seconds: dict[str, float] = {}
        with self._stage("load"):
            self.task = tasks.make(study.task)
            self.samples = load_samples(study, self.task)
            self.backbone = load_backbone(study.backbone)
            self.workers = share_cores(self.backbone)
            check_model(study, self.backbone)
            self.model_key = fingerprint(self.backbone.model, self.backbone.processor)
            self.memo = Memo(run_dir / OUTCOMES_FILE, self.model_key)
            self.resumed = len(self.memo) > 0
            self.visual = VisualCache(
                run_dir / CACHE_FOLDER, self.backbone, self.model_key, self.backbone.seed_signals
            )
            self.extractor = NounExtractor()
            self.reader = PromptReader(self.backbone, self.extractor)
            self.counts = study.counts(
                self.backbone.visual_tokens, study.study.name, self._lengths()
            )
        self.ratios = {
            count: budget
            for budget, count in self.counts.items()
            if isinstance(budget, float) and self.backbone.visual_tokens is None
        }
        alpha, strategy = paper_default(self.backbone.family)
        if strategy.endswith("_attention") and strategy not in self.backbone.seed_signals:
            strategy = "l2_norm"
        self.paper = self._setting(alpha, strategy)
        self.budgets = sorted(self.counts.values(), reverse=True)
        self.grid = list(study.alpha.grid)
        self.engines: dict[str, Engine] = {}

    # -- the whole ----------------------------------------------------------------------

    def results(self) -> Results:
        """Go through all stages."""
        study = self.study
        with self._stage("baselines"):
            tune = self._engine("tune")
            unpruned = tune.unpruned()
            baselines = self._baselines(tune, unpruned)
        with self._stage("trials"):
            search = self._search(tune, float(unpruned.mean()))
        with self._stage("curves"):
            candidates, curves = self._curves(tune)
        choices, recommended, reason = self._choose(
            tune, search, candidates, float(unpruned.mean())
        )
        fit_scores: dict[int, Floats] = {}
        if study.alpha.adaptive:
            with self._stage("alpha fit"):
                fit_scores = self._fit(choices)
                curves += [
                    self._curve(self._engine("fit"), budget, choices[budget].setting, scores)
                    for budget, scores in fit_scores.items()
                ]
        with self._stage("report"):
            report = self._engine("report")
            intervals = self._intervals(report)
            proven, panels, adaptive = self._prove(report, intervals, choices, fit_scores)
            rows = report_rows(proven, intervals)
            shown = {recommended, min(self.budgets)}
            examples = kept_examples(
                report, [panel for panel in panels if panel.budget in shown], study.report.examples
            )
        tune_intervals = self._intervals(tune)
        trials = search.trials()
        notes = [reason, *verdicts(rows, adaptive), *self._notes(len(trials))]
        return Results(
            study=study.model_dump(mode="json"),
            environment=self._environment(),
            model=self._model(),
            noun_pipeline=NounPipelineInfo(
                name=self.extractor.pipeline_name, version=self.extractor.pipeline_version
            ),
            splits={name: self._split(name) for name in self.samples},
            groups=sorted({sample.group for sample in self.samples["report"]}),
            trials=trials,
            baselines=baselines,
            importances=search.importances(),
            curves=curves,
            chosen=[
                self._chosen(budget, choice, tune_intervals) for budget, choice in choices.items()
            ],
            recommended_budget=recommended,
            report=rows,
            adaptive=list(adaptive.values()),
            feature_weights=self._feature_weights(),
            examples=examples,
            cost=Cost(
                seconds={name: round(value, 2) for name, value in self.seconds.items()},
                encoder_calls=self.visual.encoder_calls,
                prefills=sum(engine.prefills for engine in self.engines.values()),
                memo_hits=self.memo.hits,
                trials=len(trials),
            ),
            notes=notes,
        )

    # -- tune split ---------------------------------------------------------------------

    def _baselines(self, tune: Engine, unpruned: Floats) -> list[Baseline]:
        intervals = self._intervals(tune)
        found = [Baseline(name="unpruned", budget=None, score=intervals.of(unpruned))]
        for budget in self.budgets:
            random = random_scores(tune, budget, self.study.study.seed)
            found.append(Baseline(name="random", budget=budget, score=intervals.of(random)))
            found.append(
                Baseline(
                    name="paper-default",
                    budget=budget,
                    alpha=self.paper.alpha,
                    seed_strategy=self.paper.seed_strategy,
                    score=intervals.of(tune.score(self.paper, budget)),
                )
            )
        return found

    def _search(self, tune: Engine, unpruned: float) -> Search:
        objective = self.study.study.objective
        floor = None
        if objective.kind == "quality-floor":
            floor = floor_of(unpruned, 1 - (objective.keep or 1.0), self.study.task.metric)

        def evaluate(setting: Setting, budget: int) -> Scored:
            return Scored(float(tune.score(setting, budget).mean()), floor)

        search = Search(self.study, self.counts, self.backbone.family, self.run_dir)
        total = self.study.study.trials
        search.run(evaluate, lambda trial: self.progress.trial(trial, search.finished, total))
        return search

    def _curves(self, tune: Engine) -> tuple[dict[int, list[Candidate]], list[AlphaCurve]]:
        """Score the alpha grid under every seed strategy, with the default options."""
        candidates: dict[int, list[Candidate]] = {budget: [] for budget in self.budgets}
        curves = []
        for strategy in self.study.search.seed_strategy:
            setting = self._setting(0.0, strategy)
            scores = tune.grid(setting, self.grid, self.budgets)
            for budget, table in zip(self.budgets, scores, strict=True):
                curves.append(self._curve(tune, budget, setting, table))
                candidates[budget] += self._grid_candidates(setting, table)
        return candidates, curves

    def _grid_candidates(self, setting: Setting, table: Floats) -> list[Candidate]:
        return [
            Candidate(setting.at(alpha), scores)
            for alpha, scores in zip(self.grid, table, strict=True)
        ]

    def _choose(
        self,
        tune: Engine,
        search: Search,
        candidates: dict[int, list[Candidate]],
        unpruned: float,
    ) -> tuple[dict[int, _Choice], int, str]:
        """Choose a setting a budget, and the budget to recommend.

        Relevance options and positions hold for a whole config. So the recommended budget's
        choice decides them, and the other budgets choose again among settings with the same.
        """
        for trial in search.trials():
            setting, budget = search.setting(trial.params)
            if budget in candidates:
                candidates[budget].append(Candidate(setting, tune.score(setting, budget)))

        def best(pool: Mapping[int, list[Candidate]]) -> dict[int, _Choice]:
            found = {b: choose_setting(pool[b], tune.images) for b in self.budgets}
            return {b: _Choice(c.setting, c.scores) for b, c in found.items()}

        choices = best(candidates)
        recommended, reason = self._recommend(choices, unpruned)
        lead = choices[recommended].setting
        if any(_options(choice.setting) != _options(lead) for choice in choices.values()):
            for strategy in self.study.search.seed_strategy:
                setting = Setting(0.0, strategy, *_options(lead))
                for b, table in zip(
                    self.budgets, tune.grid(setting, self.grid, self.budgets), strict=True
                ):
                    candidates[b] += self._grid_candidates(setting, table)
            choices = best(
                {
                    b: [c for c in pool if _options(c.setting) == _options(lead)]
                    for b, pool in candidates.items()
                }
            )
            recommended, reason = self._recommend(choices, unpruned)
        return choices, recommended, reason

    def _recommend(self, choices: Mapping[int, _Choice], unpruned: float) -> tuple[int, str]:
        scores = {budget: float(choice.tune.mean()) for budget, choice in choices.items()}
        objective = self.study.study.objective
        return recommend(objective, scores, unpruned, self.study.task.metric)

    # -- fit split ----------------------------------------------------------------------

    def _fit(self, choices: Mapping[int, _Choice]) -> dict[int, Floats]:
        """Fit the alpha predictor; return the fit split's scores by budget, (A, M) each."""
        engine = self._engine("fit")
        wanted = self.study.alpha.budgets or tuple(self.counts)
        budgets = sorted((self.counts[budget] for budget in wanted), reverse=True)
        scores: dict[int, Floats] = {}
        smooth: dict[int, Floats] = {}
        labelled = all(sample.answers for sample in engine.samples)
        for budget in budgets:
            setting = choices[budget].setting
            kept = engine.grid_kept(setting, self.grid, [budget])
            scores[budget] = engine.outcomes(kept)
            if labelled and self.study.task.metric == "score":
                chances = engine.likelihoods(kept)
                smooth[budget] = -np.maximum(chances, _LEAST_LOG_LIKELIHOOD).T
        self.progress.stage("alpha predictor")
        self.fit = fit_alpha(
            engine.features(),
            {budget: _losses(table).T for budget, table in scores.items()},
            self.grid,
            engine.images,
            seed=self.study.study.seed,
            surrogate=smooth or None,
        )
        return scores

    # -- report split -------------------------------------------------------------------

    def _prove(
        self,
        report: Engine,
        intervals: Intervals,
        choices: Mapping[int, _Choice],
        fit_scores: Mapping[int, Floats],
    ) -> tuple[list[Proven], list[Panel], dict[int, AdaptiveRow]]:
        proven = [Proven("unpruned", "unpruned", None, None, None, report.unpruned())]
        panels: list[Panel] = []
        adaptive: dict[int, AdaptiveRow] = {}
        features = report.features() if self.fit is not None else None
        for budget, choice in choices.items():
            setting = choice.setting
            proven += self._fixed_rows(report, budget, setting)
            fixed = np.full(len(report), setting.alpha)
            default = np.full(len(report), self.paper.alpha)
            deployed = Panel("tuned", budget, fixed, report.kept(setting, budget))
            if self.fit is not None and features is not None and budget in fit_scores:
                predictor: AlphaPredictor = self.fit.predictor
                alphas = predictor.alphas_for(features, budget)
                kept = adaptive_kept(report, setting, alphas, budget)
                scores = report.outcomes([kept])[0]
                strategy = setting.seed_strategy
                proven.append(
                    Proven("adaptive", "adaptive alpha", budget, "adaptive", strategy, scores)
                )
                if self.fit.strengths[budget] > 0:
                    deployed = Panel("adaptive", budget, alphas, kept)
                adaptive[budget] = adaptive_row(
                    budget,
                    self.fit,
                    self.grid,
                    fit_scores[budget],
                    self._engine("fit").groups,
                    report.grid(setting, self.grid, [budget])[0],
                    alphas,
                    scores,
                    intervals,
                )
            panels.append(deployed)
            panels.append(Panel("paper-default", budget, default, report.kept(self.paper, budget)))
        return proven, panels, adaptive

    def _fixed_rows(self, report: Engine, budget: int, setting: Setting) -> list[Proven]:
        strategy, paper = setting.seed_strategy, self.paper
        relevant = report.outcomes([report.most_relevant(setting, budget)])[0]
        seed = self.study.study.seed
        return [
            Proven("random", "random tokens", budget, None, None,
                   random_scores(report, budget, seed)),
            Proven("relevance-only", "relevance alone", budget, None, None, relevant),
            Proven("alpha-0", "geometry alone (alpha 0)", budget, 0.0, strategy,
                   report.score(setting.at(0.0), budget)),
            Proven("paper-default", f"paper's default (alpha {paper.alpha:g})", budget,
                   paper.alpha, paper.seed_strategy, report.score(paper, budget)),
            Proven("tuned", f"tuned (alpha {setting.alpha:g})", budget, setting.alpha, strategy,
                   report.score(setting, budget)),
        ]  # fmt: skip

    # -- pieces -------------------------------------------------------------------------

    def predictor(self) -> dict[str, Any] | None:
        """Return the alpha predictor as data, its budgets as the export has them."""
        if self.fit is None:
            return None
        data = self.fit.predictor.to_dict()
        for entry in data["budgets"]:
            entry["budget"] = self.ratios.get(entry["budget"], entry["budget"])
        return data

    def _lengths(self) -> list[int]:
        """Return T of each image of the tune split where the budgets need it."""
        if not self.study.varies(self.backbone.visual_tokens):
            return []
        samples = self.samples["tune"]
        self.visual.load(samples, self.progress.step)
        return [len(self.visual[image_key(sample)].tokens) for sample in samples]

    def _setting(self, alpha: float, strategy: str) -> Setting:
        search = self.study.search
        return Setting(
            alpha, strategy, search.pooling[0], search.normalization[0], search.positions[0]
        )

    def _engine(self, split: str) -> Engine:
        if split not in self.engines:
            self.engines[split] = Engine(
                self.task,
                self.samples[split],
                self.visual,
                self.memo,
                self.reader,
                metric=self.study.task.metric,
                batch_size=self.study.backbone.batch_size,
                workers=self.workers,
                ratios=self.ratios,
                progress=self.progress.step,
            )
        return self.engines[split]

    def _intervals(self, engine: Engine) -> Intervals:
        study = self.study
        return Intervals(engine.images, engine.groups, study.study.seed, study.report.resamples)

    def _curve(self, engine: Engine, budget: int, setting: Setting, table: Floats) -> AlphaCurve:
        split = next(name for name, known in self.engines.items() if known is engine)
        return AlphaCurve(
            budget=budget,
            seed_strategy=setting.seed_strategy,
            split=split,
            alphas=self.grid,
            scores=[float(row.mean()) for row in table],
            standard_errors=[standard_error(row, None, engine.images) for row in table],
        )

    def _chosen(self, budget: int, choice: _Choice, intervals: Intervals) -> ChosenConfig:
        gains = self.fit is not None and self.fit.strengths.get(budget, 0.0) > 0
        setting = choice.setting
        return ChosenConfig(
            budget=budget,
            ratio=self.ratios.get(budget),
            alpha="adaptive" if gains else setting.alpha,
            fixed_alpha=setting.alpha,
            seed_strategy=setting.seed_strategy,
            pooling=setting.pooling,
            normalization=setting.normalization,
            positions=setting.positions,
            tune_score=intervals.of(choice.tune),
        )

    def _split(self, name: str) -> SplitInfo:
        samples = self.samples[name]
        spec = self.study.task.splits()[name]
        return SplitInfo(
            name=spec.split,
            samples=len(samples),
            images=len({sample.image_id for sample in samples}),
        )

    def _model(self) -> ModelInfo:
        return ModelInfo(
            id=self.study.backbone.model,
            family=self.backbone.family,
            revision=self.study.backbone.revision,
            visual_tokens=self.backbone.visual_tokens,
            width=self.backbone.width,
        )

    def _feature_weights(self) -> list[FeatureWeight]:
        if self.fit is None:
            return []
        weights = sorted(self.fit.feature_weights.items(), key=lambda item: -item[1])
        return [FeatureWeight(name=name, weight=weight) for name, weight in weights]

    def _environment(self) -> dict[str, str]:
        from importlib.metadata import version

        import torch

        found = {"resprune-tune": __version__, "python": platform.python_version()}
        for name in ("torch", "transformers", "optuna", "spacy", "scikit-learn", "numpy"):
            found[name] = version(name)
        model = self.backbone.model
        found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        found["device"] = f"{model.device}, {torch.get_num_threads()} threads"
        found["dtype"] = str(model.dtype).removeprefix("torch.")
        found["model fingerprint"] = self.model_key
        return found

    def _notes(self, trials: int) -> list[str]:
        notes = []
        if trials < self.study.study.trials:
            notes.append(f"The search space held no more than {trials} settings that differ.")
        if self.paper.seed_strategy != paper_default(self.backbone.family)[1]:
            notes.append(
                "The vision tower has no CLS token, so the paper's default was run with the seed "
                "strategy l2_norm."
            )
        if self.resumed:
            notes.append(
                "The study was resumed; outcomes of earlier runs were used again, and its cost is "
                "that of the last run alone."
            )
        if self.ratios:
            each = ", ".join(f"{ratio:g} ({k})" for k, ratio in self.ratios.items())
            notes.append(
                "Budgets that are ratios keep a share of each image's own visual tokens; tables "
                f"and figures name them by the mean count on the tune split: {each}."
            )
        if self.study.task.metric == "fidelity":
            notes.append("Scores are agreement with the unpruned model's own answers.")
        return notes

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.progress.stage(name)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def _options(setting: Setting) -> tuple[str, str, str]:
    return setting.pooling, setting.normalization, setting.positions


def _losses(scores: Floats) -> Floats:
    """Loss of each score: 1 - score; a log-likelihood's loss is its negative, floored."""
    if scores.min(initial=0.0) < 0.0:
        losses: Floats = -np.maximum(scores, _LEAST_LOG_LIKELIHOOD)
        return losses
    return np.asarray(1.0 - scores)


def summary(results: Results, run_dir: Path) -> dict[str, Any]:
    """Return what ``run --json`` prints: the answer and where the files are."""
    rows: Sequence[Any] = [
        row.model_dump(mode="json", exclude={"by_group"}) for row in results.report
    ]
    return {
        "study": results.study["study"]["name"],
        "run_dir": str(run_dir),
        "recommended_budget": results.recommended_budget,
        "chosen": [chosen.model_dump(mode="json") for chosen in results.chosen],
        "report": rows,
        "adaptive": [
            row.model_dump(mode="json", include={"budget", "strength", "adaptive_minus_fixed"})
            for row in results.adaptive
        ],
        "cost": results.cost.model_dump(mode="json"),
        "notes": results.notes,
    }
