"""The bench on a study, on an exported config, and on a shape: model, prompts and policies."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from resprune import backbones, methods
from resprune.alpha import AlphaPredictor
from resprune.backbones import Backbone
from resprune.budget import BudgetLike
from resprune.config import PruningConfig
from resprune.setting import Adaptive, Setting, paper_default
from studies.nano.scenes import generate_scene
from tuner.efficiency.extrapolate import Depths
from tuner.efficiency.flops import Decoder
from tuner.efficiency.measure import ImagePrompt, measure
from tuner.efficiency.shapes import shape
from tuner.results.efficiency import Efficiency
from tuner.tasks import Sample

SHALLOW = (1, 3)
"""Decoder layers that stand for all of them on a CPU."""
BATCHES = (1, 8, 32)
_QUESTIONS = (
    "What color is the small dog on the left of the table?",
    "How many people are in the picture?",
    "What digit is on the circle?",
    "Is there a fire hydrant?",
)


@dataclass(frozen=True)
class Plan:
    """How a run is made.

    Attributes:
        repeats: Rounds.
        new_tokens: Tokens generated a call.
        batches: Batch sizes.
        prompts: Prompts at most.
        seed: Draws the order of each round.
    """

    repeats: int = 9
    new_tokens: int = 8
    batches: tuple[int, ...] = BATCHES
    prompts: int = 8
    seed: int = 0


SHORT = Plan(repeats=15, new_tokens=4, batches=(1,))
"""What a study runs at its end: seconds on an embedded model."""


def bench(
    backbone: Backbone,
    prompts: Sequence[ImagePrompt],
    policies: Sequence[Setting | Adaptive],
    plan: Plan,
    *,
    model: str,
    source: str,
    predictor: AlphaPredictor | None = None,
    depths: Depths | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Efficiency:
    """Measure policies and say on what.

    Args:
        backbone: The model.
        prompts: What it is asked.
        policies: What to measure beside the unpruned model.
        plan: How.
        model: Its name.
        source: Where the prompts come from, in words.
        predictor: Of adaptive policies.
        depths: Times two shallow forms of the model in place of itself.
        progress: Called with the calls done and in all.
    """
    decoder = Decoder.of(backbone.model.config)
    rows = measure(
        backbone,
        prompts[: plan.prompts],
        policies,
        repeats=plan.repeats,
        seed=plan.seed,
        max_new_tokens=plan.new_tokens,
        batches=plan.batches,
        predictor=predictor,
        depths=depths,
        progress=progress,
    )
    layers = decoder.layers if depths is None else depths.full
    return Efficiency(
        model=model,
        device=_device(backbone.model.device),
        dtype=str(backbone.model.dtype).removeprefix("torch."),
        layers=layers,
        parameters=layers * decoder.layer_parameters,
        measured_layers=(layers,) if depths is None else depths.counts,
        prompts=len(prompts[: plan.prompts]),
        prompt_source=source,
        repeats=plan.repeats,
        new_tokens=plan.new_tokens,
        seed=plan.seed,
        rows=tuple(rows.values()),
    )


def bench_study(
    study: Any,
    plan: Plan,
    methods_named: Sequence[str] = (),
    budgets: Sequence[BudgetLike] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Efficiency:
    """Measure a study's methods at its budgets, on its model and samples of its tune split.

    Args:
        study: A ``StudyConfig``.
        plan: How.
        methods_named: Methods in place of the study's.
        budgets: Budgets in place of the study's.
        progress: Called with the calls done and in all.

    Raises:
        ResPruneError: Bad input.
    """
    from tuner import tasks
    from tuner.scoring.model import load_backbone

    split = study.task.tune
    count = plan.prompts if split.samples is None else min(plan.prompts, split.samples)
    drawn = tasks.make(study.task).draw(
        split.split,
        count,
        split.offset,
        questions_per_image=split.questions_per_image,
        seed=study.study.seed,
    )
    names = methods_named or study.search.method
    _known(names)
    backbone = load_backbone(study.backbone)
    return bench(
        backbone,
        sample_prompts(backbone, drawn),
        default_settings(backbone, names, budgets or study.budgets()),
        plan,
        model=study.backbone.model,
        source=f"the tune split of {study.study.name}",
        progress=progress,
    )


def bench_config(
    folder: Path,
    plan: Plan,
    budgets: Sequence[BudgetLike] = (),
    model: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Efficiency:
    """Measure the policies of an exported config, on made-up scenes.

    Args:
        folder: The config.
        plan: How.
        budgets: Entries of its table; all of them where empty.
        model: Embedded model, folder or hub id; the config's otherwise.
        progress: Called with the calls done and in all.

    Raises:
        ResPruneError: A config, budget or model that cannot be used.
    """
    from tuner.predict import load_model

    config = PruningConfig.from_pretrained(folder)
    policies = [config.policy(budget) for budget in budgets] or list(config.table)
    backbone = load_model(config, model, str(folder))
    made_for = config.backbone.id if config.backbone else None
    return bench(
        backbone,
        scene_prompts(backbone, 672),
        policies,
        plan,
        model=str(model or made_for),
        source="made-up scenes of 672 x 672 pixels",
        predictor=config.predictor,
        progress=progress,
    )


def bench_shape(
    name: str,
    plan: Plan,
    methods_named: Sequence[str] = (),
    budgets: Sequence[BudgetLike] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Efficiency:
    """Measure methods on a model of real size with random weights.

    With a GPU all layers run, in bfloat16. On a CPU one and three decoder layers run in float32,
    and times are extrapolated as a + L b.

    Args:
        name: A shape.
        plan: How.
        methods_named: Methods; ``resprune`` where empty.
        budgets: Budgets; the paper's where empty.
        progress: Called with the calls done and in all.

    Raises:
        ResPruneError: An unknown shape, method or budget.
    """
    found = shape(name)
    names = methods_named or ("resprune",)
    _known(names)
    if torch.cuda.is_available():
        built = found.build(None, torch.device("cuda"), torch.bfloat16)
        depths = None
    else:
        built = found.build(max(SHALLOW), torch.device("cpu"), torch.float32)
        depths = Depths(built.model, SHALLOW, built.layers)
    backbone = backbones.for_model(built.model, built.processor)
    return bench(
        backbone,
        scene_prompts(backbone, found.edge),
        default_settings(backbone, names, budgets or found.budgets),
        plan,
        model=f"{name} (random weights, the config of {found.source})",
        source=f"made-up scenes of {found.edge} x {found.edge} pixels",
        depths=depths,
        progress=progress,
    )


def default_settings(
    backbone: Backbone, names: Sequence[str], budgets: Sequence[BudgetLike]
) -> list[Setting]:
    """Return every method with its own defaults at every budget; ResPrune's are the paper's.

    The unpruned model has no budget, and is measured in any case.
    """

    def default(method: str, budget: BudgetLike) -> Setting:
        if method != "resprune":
            return Setting.of(method, budget)
        setting = paper_default(backbone.family, budget)
        strategy = setting.option("seed_strategy")
        if strategy.endswith("_attention") and strategy not in backbone.seed_signals:
            return setting.with_options(seed_strategy="l2_norm")
        return setting

    pruning = [name for name in names if methods.get(name).stage != "none"]
    return [default(method, budget) for method in pruning for budget in budgets]


def sample_prompts(backbone: Backbone, samples: Sequence[Sample]) -> list[ImagePrompt]:
    """Return samples of a task as a served model is asked them."""
    return [ImagePrompt(s.load_image(), backbone.chat_prompt(s.prompt)) for s in samples]


def scene_prompts(backbone: Backbone, edge: int) -> list[ImagePrompt]:
    """Return made-up square scenes with a question each."""
    return [
        ImagePrompt(
            generate_scene(seed).image.resize((edge, edge), Image.Resampling.BICUBIC),
            backbone.chat_prompt(question),
        )
        for seed, question in enumerate(_QUESTIONS)
    ]


def _known(names: Sequence[str]) -> None:
    """Refuse an unknown method before a model is loaded."""
    for name in names:
        methods.get(name)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, threads: {torch.get_num_threads()}"
