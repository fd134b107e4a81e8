"""nano-llava: four stages from nothing, language first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from studies.nano.data import prepare_features, prepare_scenes
from studies.nano.families import vision_of
from studies.nano.loop import Run, Stage, checkpoint_path, finished, load_weights
from studies.nano.model import build_model
from studies.nano.packing import PackedQuestions, Predictions, predict
from studies.nano.processor import build_processor
from studies.nano.recipe import FULL, SMOKE
from studies.nano.scenes import Scene, generate_scene
from studies.nano.stages.alignment import AlignmentStage
from studies.nano.stages.instruction import InstructionStage
from studies.nano.stages.language import LanguageStage
from studies.nano.stages.projector import ProjectorStage
from studies.nano.words import build_codebook

__all__ = ["FULL", "SMOKE", "build_processor", "run_stages"]
MODEL_TYPE = "llava"
SCENE: Callable[[int], Scene] = generate_scene
BUDGETS = (43, 22, 11, 6)
SIGNAL = "cls_attention"


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
    features = prepare_features(run, vision_of(model), scenes)
    if not finished(run.out, "projector", recipe.projector):
        train_one(ProjectorStage(run, model, codebook, scenes, features, monitor))
    load_weights(model, checkpoint_path(run.out, "projector"), parts)
    load_weights(model, checkpoint_path(run.out, "language"), ("model.language_model.",))
    train_one(InstructionStage(run, model, scenes, features, monitor))
    return model


@torch.no_grad()
def encode(model: Any, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual tokens (n, 196, d) of scenes, and the CLS token's mean attention (n, 196) to them."""
    processor = build_processor().image_processor
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    tower.set_attn_implementation("eager")
    tokens, attention = [], []
    for begin in range(0, len(seeds), 50):
        images = [generate_scene(seed).image for seed in seeds[begin : begin + 50]]
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        seen = tower(pixels, output_hidden_states=True, output_attentions=True)
        tokens.append(projector(seen.hidden_states[-1][:, 1:]))
        attention.append(seen.attentions[-1].mean(1)[:, 0, 1:])
    return torch.cat(tokens), torch.cat(attention)


def predict_kept(
    model: Any,
    tokens: torch.Tensor,
    kept: torch.Tensor,
    seeds: Sequence[int],
    questions: PackedQuestions,
) -> Predictions:
    """Predict the answers with kept tokens (B, k, d), which are patches (B, k) of the scenes."""
    return predict(model, tokens, kept, questions)
