"""nano-qwen2.5-vl: the stages of nano-llava, for Qwen2.5-VL's architecture."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from studies.nano.data import prepare_features, prepare_scenes
from studies.nano.families import vision_of
from studies.nano.loop import Run, Stage, checkpoint_path, finished, load_weights
from studies.nano.models.llava import predict_kept
from studies.nano.processor import vocabulary
from studies.nano.qwen_model import build_qwen
from studies.nano.qwen_processor import build_qwen_processor as build_processor
from studies.nano.qwen_processor import qwen_vocabulary
from studies.nano.recipe import SMOKE, Recipe, StageSettings
from studies.nano.scenes import Scene, generate_scene
from studies.nano.stages.alignment import AlignmentStage
from studies.nano.stages.instruction import InstructionStage
from studies.nano.stages.language import LanguageStage
from studies.nano.stages.projector import ProjectorStage
from studies.nano.words import build_codebook

__all__ = ["FULL", "SMOKE", "build_processor", "predict_kept", "run_stages"]
FULL = Recipe(
    train_scenes=6000,
    language=StageSettings(700, 12, 1.5e-3, 0.01, 60, 0.04),
    alignment=StageSettings(400, 16, 2e-3, 0.02, 60),
    projector=StageSettings(400, 16, 1.5e-3, 0.01, 1),
    instruction=StageSettings(450, 16, 1.2e-3, 0.02, 60),
    checkpoint_every=50,
    monitor_every=100,
)
"""Shorter than nano-llava's: rotary rows and columns make binding easier to learn."""
MODEL_TYPE = "qwen2_5_vl"
SCENE: Callable[[int], Scene] = generate_scene
BUDGETS = (43, 22, 11, 6)
SIGNAL = "received_attention"


def run_stages(run: Run, train_one: Callable[[Stage], None]) -> Any:
    """Train the stages that are not finished and return the model; see `studies.nano.models`."""
    recipe, began = run.recipe, time.monotonic()
    model = build_qwen(run.seed)
    # No coordinates: the tower has no absolute positions, and the language model gets them as
    # rotary positions of rows and columns.
    more = len(qwen_vocabulary()) - len(vocabulary())
    codebook = build_codebook(run.seed, more, coordinates=False)
    if not finished(run.out, "language", recipe.language):
        train_one(LanguageStage(run, model, codebook))
    scenes = prepare_scenes(run, "train", recipe.train_scenes)
    monitor = prepare_scenes(run, "monitor", recipe.monitor_scenes)
    run.log(data="ready", seconds=round(time.monotonic() - began))
    vision = vision_of(model)
    if not finished(run.out, "alignment", recipe.alignment):
        train_one(AlignmentStage(run, model, codebook, scenes, monitor))
    load_weights(model, checkpoint_path(run.out, "alignment"), vision.prefixes)
    features = prepare_features(run, vision, scenes)
    if not finished(run.out, "projector", recipe.projector):
        train_one(ProjectorStage(run, model, codebook, scenes, features, monitor))
    load_weights(model, checkpoint_path(run.out, "projector"), vision.prefixes)
    load_weights(model, checkpoint_path(run.out, "language"), ("model.language_model.",))
    train_one(InstructionStage(run, model, scenes, features, monitor))
    return model


@torch.no_grad()
def encode(model: Any, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual tokens (n, 196, d) of scenes, and the attention (n, 196) that each receives."""
    from resprune.backbones import for_model

    processor = build_processor()
    backbone = for_model(model, processor)
    tokens, attention = [], []
    for begin in range(0, len(seeds), 50):
        images = [generate_scene(seed).image for seed in seeds[begin : begin + 50]]
        inputs = processor.image_processor(images, return_tensors="pt")
        for image in backbone.encode(inputs, signals=[SIGNAL]):
            tokens.append(image.tokens)
            attention.append(image.signals[SIGNAL])
    return torch.stack(tokens), torch.stack(attention)
