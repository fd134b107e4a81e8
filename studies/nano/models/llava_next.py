"""nano-llava-next: nano-llava's weights, trained on for wide scenes seen in tiles.

Starts from the shipped nano-llava (which has been through its language stage), then takes its other
three stages again, shorter: alignment and projector on the views of wide scenes, of which the base
view is new to it, and instruction with all views and newline tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F

from studies.nano import model_dir
from studies.nano.data import prepare_features
from studies.nano.families import vision_of
from studies.nano.loop import Run, Stage, checkpoint_path, finished, load_weights
from studies.nano.packing import PackedQuestions, Predictions, predict
from studies.nano.processor import CHAT_TEMPLATE, IMAGE, PIXEL_MEAN, PIXEL_STD, build_tokenizer
from studies.nano.recipe import SMOKE as LLAVA_SMOKE
from studies.nano.recipe import Recipe, StageSettings
from studies.nano.scenes import (
    IMAGE_SIZE,
    PATCH_SIZE,
    PORTRAIT,
    Scene,
    generate_wide_scene,
    wide_canvas,
)
from studies.nano.stages.alignment import AlignmentStage
from studies.nano.stages.projector import ProjectorStage
from studies.nano.stages.tiled_instruction import TiledInstructionStage
from studies.nano.views import PINPOINTS, TOKENS, layout_of, place_tokens, prepare_wide_scenes
from studies.nano.words import build_codebook

START, START_SEED = "nano-llava", 0
_NO_STAGE = StageSettings(0, 0, 0.0, 0.0, 0)
FULL = Recipe(
    train_scenes=6_000,
    language=_NO_STAGE,
    alignment=StageSettings(300, 18, 1e-3, 0.02, 30),
    projector=StageSettings(400, 18, 1.5e-3, 0.01, 1),
    instruction=StageSettings(1100, 16, 1.2e-3, 0.02, 60),
)
SMOKE = replace(LLAVA_SMOKE, language=_NO_STAGE)
LENGTH = 1024
MODEL_TYPE = "llava_next"
SCENE: Callable[[int], Scene] = generate_wide_scene
BUDGETS = (80, 40, 20, 10)
SIGNAL = "cls_attention"


def build_model(seed: int) -> Any:
    """Build a `LlavaNextForConditionalGeneration` with nano-llava's weights.

    Its newline token, which nano-llava has not, is drawn by the seed.
    """
    from transformers import (
        LlavaForConditionalGeneration,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
    )

    trained: Any = LlavaForConditionalGeneration.from_pretrained(
        model_dir(START), local_files_only=True
    )
    start = trained.config
    start.text_config.max_position_embeddings = LENGTH
    config = LlavaNextConfig(
        vision_config=start.vision_config,
        text_config=start.text_config,
        image_token_index=start.image_token_id,
        vision_feature_layer=start.vision_feature_layer,
        vision_feature_select_strategy=start.vision_feature_select_strategy,
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaNextForConditionalGeneration(config)
    model.tie_weights()
    weights = dict(trained.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "model.image_newline":
                parameter.copy_(weights[name])
    return model


def build_processor() -> Any:
    """Build the `LlavaNextProcessor`; it saves and loads like any other."""
    from transformers import LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    processor_class: Any = LlavaNextProcessor
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_grid_pinpoints=PINPOINTS,
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = LENGTH
    return processor_class(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def run_stages(run: Run, train_one: Callable[[Stage], None]) -> Any:
    """Train the stages that are not finished and return the model; see `studies.nano.models`."""
    recipe, began = run.recipe, time.monotonic()
    model = build_model(run.seed)
    # The words as nano-llava's instruction stage left them, which its language model reads.
    words = model.get_input_embeddings().weight.detach()
    codebook = replace(build_codebook(START_SEED), embeddings=F.normalize(words, dim=-1))
    scenes = prepare_wide_scenes(run, "train", recipe.train_scenes)
    monitor = prepare_wide_scenes(run, "monitor", recipe.monitor_scenes)
    run.log(data="ready", seconds=round(time.monotonic() - began))
    if not finished(run.out, "alignment", recipe.alignment):
        train_one(AlignmentStage(run, model, codebook, scenes.views, monitor.views))
    parts = ("model.vision_tower.", "model.multi_modal_projector.")
    load_weights(model, checkpoint_path(run.out, "alignment"), parts)
    features = prepare_features(run, vision_of(model), scenes.views)
    if not finished(run.out, "projector", recipe.projector):
        train_one(ProjectorStage(run, model, codebook, scenes.views, features, monitor.views))
    load_weights(model, checkpoint_path(run.out, "projector"), parts)
    train_one(TiledInstructionStage(run, model, scenes, features, monitor))
    return model


@torch.no_grad()
def encode(model: Any, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual tokens (n, 588, d) of wide scenes, and each view's CLS attention (n, 588) to them."""
    processor = build_processor().image_processor
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    tower.set_attn_implementation("eager")
    tokens, attention = [], []
    for begin in range(0, len(seeds), 16):
        scenes = [generate_wide_scene(seed) for seed in seeds[begin : begin + 16]]
        pixels = processor([s.image for s in scenes], return_tensors="pt")["pixel_values"]
        seen = tower(pixels.flatten(0, 1), output_hidden_states=True, output_attentions=True)
        source = torch.stack([layout_of(s.canvas).source for s in scenes])
        features = seen.hidden_states[-1][:, 1:].reshape(len(scenes), TOKENS, -1)
        features = features.gather(1, source[..., None].expand(-1, -1, features.shape[-1]))
        tokens.append(projector(features))
        signal = seen.attentions[-1].mean(1)[:, 0, 1:].reshape(len(scenes), TOKENS)
        attention.append(signal.gather(1, source))
    return torch.cat(tokens), torch.cat(attention)


def predict_kept(
    model: Any,
    tokens: torch.Tensor,
    kept: torch.Tensor,
    seeds: Sequence[int],
    questions: PackedQuestions,
) -> Predictions:
    """Predict the answers with kept tokens (B, k, d), which are `kept` (B, k) of the prompt's."""
    canvases = [wide_canvas(seed) for seed in seeds]
    groups = [torch.arange(len(kept))]
    if kept.shape[1] == TOKENS:  # only images of one canvas have as many newline tokens
        upright = torch.tensor([canvas == PORTRAIT for canvas in canvases])
        groups = [
            part for part in (upright.nonzero()[:, 0], (~upright).nonzero()[:, 0]) if len(part)
        ]
    parts = []
    for rows in groups:
        some = [canvases[i] for i in rows.tolist()]
        placed = place_tokens(tokens[rows], model.model.image_newline, some, kept[rows])
        asked = PackedQuestions(questions.ids[rows], questions.lengths[rows])
        parts.append(predict(model, *placed[:2], asked, placed[2]))
    back = torch.cat(groups).argsort()
    return Predictions(
        *(torch.cat([getattr(p, f.name) for p in parts])[back] for f in fields(Predictions))
    )
