"""The facts around a study's results: model, splits, environment, cost, notes."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from resprune import methods
from resprune.budget import Budget, Ratio
from resprune.setting import Setting, paper_default
from resprune.version import __version__
from tuner.results.schema import Cost, FeatureWeight, ModelInfo, NounPipelineInfo, SplitInfo
from tuner.search.trials import Search
from tuner.stages.adaptive import Fitted
from tuner.stages.baselines import METHODS, baseline
from tuner.stages.opened import OpenedStudy


def facts(
    opened: OpenedStudy, search: Search, fitted: Fitted | None, notes: Sequence[str]
) -> dict[str, Any]:
    """Return those fields of the results that are no scores."""
    return {
        "study": opened.study.model_dump(mode="json"),
        "environment": environment(opened),
        "model": model_info(opened),
        "noun_pipeline": NounPipelineInfo(
            name=opened.extractor.pipeline_name, version=opened.extractor.pipeline_version
        ),
        "splits": {name: split_info(opened, name) for name in opened.samples},
        "groups": sorted({sample.group for sample in opened.samples["report"]}),
        "feature_weights": _feature_weights(fitted),
        "cost": Cost(
            seconds={name: round(value, 2) for name, value in opened.seconds.items()},
            encoder_calls=opened.bench.visual.encoder_calls,
            prefills=opened.prefills,
            memo_hits=opened.bench.outcomes.hits,
            trials=len(search.trials()),
        ),
        "notes": [*notes, *_notes(opened, search)],
    }


def inside_notes(
    opened: OpenedStudy,
    chosen: Mapping[Budget, Setting],
    others: Mapping[Budget, Sequence[Setting]],
) -> list[str]:
    """Say what it means that chosen settings act inside the LLM; nothing where none does.

    Args:
        opened: The study.
        chosen: The setting of each budget.
        others: The settings of the other methods that were searched.
    """
    inside = {budget: setting for budget, setting in chosen.items() if setting.inside is not None}
    if not inside:
        return []
    budgets = ", ".join(map(str, inside))
    notes = [
        f"What is exported at budget {budgets} acts inside the LLM: resprune.attach runs it on "
        "transformers models; a server that runs the model in its own code (vLLM) cannot. What "
        "it keeps is known only there, so no example draws it."
    ]
    tune = opened.split("tune")
    for budget, setting in inside.items():
        before = [other for other in others[budget] if other.inside is None]
        before = [s for s in before if methods.get(s.method).stage == "tokens"]
        if setting.later is None and before:
            best = max(before, key=lambda other: float(tune.score(other).mean()))
            scores = [float(tune.score(each).mean()) for each in (setting, best)]
            notes.append(
                f"At {budget} {setting.method} was chosen by its tune score {scores[0]:.3f}, at a "
                f"cost of {opened.cost(setting):g} visual tokens a layer; {best.method}, before "
                f"the LLM, scored {scores[1]:.3f} at {opened.cost(best):g}."
            )
    return notes


def environment(opened: OpenedStudy) -> dict[str, str]:
    """Return versions, machine and model of a run."""
    found = {"resprune-tune": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "optuna", "spacy", "scikit-learn", "numpy"):
        found[name] = version(name)
    model = opened.backbone.model
    found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    found["device"] = f"{model.device}, {torch.get_num_threads()} threads"
    found["dtype"] = str(model.dtype).removeprefix("torch.")
    found["model fingerprint"] = opened.bench.model_key
    return found


def model_info(opened: OpenedStudy) -> ModelInfo:
    """Return what the results say of the model."""
    section, backbone = opened.study.backbone, opened.backbone
    return ModelInfo(
        id=section.model,
        family=backbone.family,
        revision=section.revision,
        visual_tokens=backbone.visual_tokens,
        width=backbone.width,
        text_model=section.text_model,
    )


def split_info(opened: OpenedStudy, name: str) -> SplitInfo:
    """Return which samples a split held."""
    samples = opened.samples[name]
    return SplitInfo(
        name=opened.study.task.splits()[name].split,
        samples=len(samples),
        images=len({sample.image_id for sample in samples}),
    )


def _feature_weights(fitted: Fitted | None) -> list[FeatureWeight]:
    if fitted is None:
        return []
    weights = sorted(fitted.fit.feature_weights.items(), key=lambda item: -item[1])
    return [FeatureWeight(name=name, weight=weight) for name, weight in weights]


def _notes(opened: OpenedStudy, search: Search) -> list[str]:
    study, notes = opened.study, []
    trials = search.trials()
    for method in study.search.method:
        tried = [trial.setting for trial in trials if trial.setting.method == method]
        if len(set(tried)) < len(tried):
            notes.append(
                f"{method}: {len(tried)} trials of {len(set(tried))} settings that differ; the "
                "search space held no more."
            )
    budgets = opened.budgets()
    default = paper_default(opened.backbone.family, budgets[0])
    if opened.paper(budgets[0]).option("seed_strategy") != default.option("seed_strategy"):
        notes.append(
            "The vision tower has no CLS token, so the paper's default was run with the seed "
            "strategy l2_norm."
        )
    notes += [note for note in (study.study.note, *opened.bench.task.notes) if note]
    notes += _left_out(opened)
    if opened.bench.outcomes.resumed:
        notes.append(
            "The study was resumed; outcomes of earlier runs were used again, and its cost is "
            "that of the last run alone."
        )
    ratios = [budget for budget in budgets if isinstance(budget, Ratio)]
    if ratios and opened.backbone.visual_tokens is None:
        each = ", ".join(f"{b.ratio:g} ({opened.tokens(opened.paper(b))})" for b in ratios)
        notes.append(
            "Budgets that are ratios keep a share of each image's own visual tokens; tables "
            f"and figures name them by the mean count on the tune split: {each}."
        )
    if opened.bench.metric.compares:
        notes.append(
            "Scores are agreement with the unpruned model's own answers."
            if opened.bench.metric.bounded
            else "Scores are minus the KL divergence from the unpruned model, in nats."
        )
    return notes


def _left_out(opened: OpenedStudy) -> list[str]:
    """Name the baselines that this model or a budget does not allow, and why."""
    reasons: dict[str, list[str]] = {}
    for budget, method in itertools.product(opened.budgets(), METHODS):
        setting, reason = baseline(opened, method, budget, opened.paper(budget))
        if setting is None and reason not in reasons.setdefault(method, []):
            reasons[method].append(reason)
    return [
        f"The baseline {method} {reason} and was left out."
        for method, each in reasons.items()
        for reason in each
    ]
