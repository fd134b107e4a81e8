"""nano-llava: four stages from nothing, language first."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from studies.nano.data import prepare_features, prepare_scenes
from studies.nano.loop import Run, Stage, checkpoint_path, finished, load_weights
from studies.nano.model import build_model
from studies.nano.processor import build_processor
from studies.nano.recipe import FULL, SMOKE
from studies.nano.stages.alignment import AlignmentStage
from studies.nano.stages.instruction import InstructionStage
from studies.nano.stages.language import LanguageStage
from studies.nano.stages.projector import ProjectorStage
from studies.nano.words import build_codebook

__all__ = ["FULL", "SMOKE", "build_processor", "run_stages"]


def run_stages(run: Run, train_one: Callable[[Stage], None]) -> Any:
    """Train the stages that are not finished and return the model; see `studies.nano.models`."""
    recipe, began = run.recipe, time.monotonic()
    model, codebook = build_model(run.seed), build_codebook(run.seed)
    if not finished(run.out, "language", recipe.language):
        train_one(LanguageStage(run, model, codebook))
    scenes = prepare_scenes(run, "train", recipe.train_scenes)
    monitor = prepare_scenes(run, "monitor", recipe.monitor_scenes)
    run.log(data="ready", seconds=round(time.monotonic() - began))
    if not finished(run.out, "alignment", recipe.alignment):
        train_one(AlignmentStage(run, model, codebook, scenes, monitor))
    parts = ("model.vision_tower.", "model.multi_modal_projector.")
    load_weights(model, checkpoint_path(run.out, "alignment"), parts)
    features = prepare_features(run, model.model.vision_tower, scenes)
    if not finished(run.out, "projector", recipe.projector):
        train_one(ProjectorStage(run, model, codebook, scenes, features, monitor))
    load_weights(model, checkpoint_path(run.out, "projector"), parts)
    load_weights(model, checkpoint_path(run.out, "language"), ("model.language_model.",))
    train_one(InstructionStage(run, model, scenes, features, monitor))
    return model
