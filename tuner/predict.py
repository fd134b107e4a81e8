"""Answer one question about one image, with and without pruning, and say what was kept.

`resprune-tune predict DIR --image X --question Q [--budget N] [--draw kept.png]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resprune import methods
from resprune.config import PruningConfig
from resprune.errors import ResPruneError
from resprune.setting import Adaptive, Setting
from resprune.validation import StrictModel
from tuner.imagefile import draw_kept, open_image, save_png

if TYPE_CHECKING:
    from resprune.backbones import Backbone


class PredictResult(StrictModel):
    """One question answered with and without pruning.

    It holds no times: one pair of calls says nothing; ``resprune-tune bench`` measures many.

    Attributes:
        question: The question.
        model: The model that answered.
        pruned: The answer from the kept tokens.
        unpruned: The answer from all of them.
        same: Whether both say the same.
        setting: The setting used.
        adaptive: Whether the policy chooses it by prompt.
        outside: Whether this prompt is unlike those that the policy was fitted on, so that it got
            the setting that is best for all.
        visual_tokens: Visual tokens T of the image.
        tokens_kept: How many were kept.
        kept: Their indices, rising.
        grid: Rows and columns of the visual tokens; token i lies at divmod(i, columns).
        nouns: Nouns found in the question; empty where the setting reads none.
        drawn: The file that the kept tokens were drawn to, or None.
    """

    question: str
    model: str
    pruned: str
    unpruned: str
    same: bool
    setting: Setting
    adaptive: bool
    outside: bool
    visual_tokens: int
    tokens_kept: int
    kept: list[int]
    grid: tuple[int, int]
    nouns: list[str]
    drawn: str | None = None


def predict(
    config_dir: Path,
    image: Path,
    question: str,
    budget: int | float | None = None,
    model: str | None = None,
    *,
    draw: Path | None = None,
    max_new_tokens: int = 64,
) -> PredictResult:
    """Answer one question about one image, with and without pruning.

    The model decodes greedily.

    Args:
        config_dir: An exported config.
        image: An image file.
        question: What to ask.
        budget: Budget of one of the config's policies, a count or a ratio; None for its default.
        model: Name of an embedded model, a folder or a hub id; None for the model that the
            config was made for.
        draw: Where to write a PNG of the image with the kept tokens, or None.
        max_new_tokens: Longest answer, in tokens.

    Returns:
        Both answers and what was kept.

    Raises:
        ResPruneError: A config, image, question, budget or model that cannot be used; each is
            checked before the model is loaded.
    """
    config = PruningConfig.from_pretrained(config_dir)
    policy = config.policy(budget)
    if methods.get(policy.method).stage == "none":
        raise ResPruneError(
            f"{config_dir}: the policy at budget {policy.budget} is {policy.method!r} and keeps "
            "everything; name another with --budget"
        )
    picture = open_image(image)
    question = question.strip()
    if not question:
        raise ResPruneError("the question is empty; ask something about the image")
    backbone = load_model(config, model, str(config_dir))
    marker = backbone.tokenizer.convert_ids_to_tokens(backbone.image_token_id)
    if marker in question:
        raise ResPruneError(
            f"the question contains {marker!r}, which stands for an image; leave it out"
        )
    prompt = backbone.chat_prompt(question)
    inputs = backbone.processor(images=picture, text=prompt, return_tensors="pt")
    inputs = inputs.to(backbone.model.device)

    options = {"max_new_tokens": max_new_tokens, "do_sample": False}
    from resprune import attach

    with attach(backbone.model, backbone.processor, config) as attachment:
        pruned = _answer(backbone, inputs, {**options, "budget": budget})
        call = attachment.last
    whole = _answer(backbone, inputs, options)
    if call is None or not call.pruned:
        raise ResPruneError(f"{image}: nothing was pruned; the model saw no image")
    kept = [int(i) for i in call.left[0]]
    if draw is not None:
        _draw(backbone, inputs, picture, kept, Path(draw))
    return PredictResult(
        question=question,
        model=str(model or (config.backbone.id if config.backbone else "")),
        pruned=pruned,
        unpruned=whole,
        same=pruned.casefold() == whole.casefold(),
        setting=call.settings[0],
        adaptive=isinstance(policy, Adaptive),
        outside=call.outside[0],
        visual_tokens=call.visual_tokens[0],
        tokens_kept=len(kept),
        kept=kept,
        grid=call.grids[0],
        nouns=call.nouns[0],
        drawn=None if draw is None else str(draw),
    )


def load_model(config: PruningConfig, model: str | None, where: str) -> Backbone:
    """Load the model that is named, or else the one the config was made for."""
    from tuner.scoring.model import load_backbone
    from tuner.study import BackboneSection

    made_for = config.backbone
    text_model = None if made_for is None else made_for.text_model
    if model is not None:
        if not model.strip():
            raise ResPruneError("--model is empty; give an embedded model, a folder or a hub id")
        return load_backbone(BackboneSection(model=model, text_model=text_model))
    if made_for is None or not made_for.id:
        raise ResPruneError(f"{where}: the config names no model; name one with --model")
    return load_backbone(
        BackboneSection(model=made_for.id, revision=made_for.revision, text_model=text_model)
    )


def _answer(backbone: Backbone, inputs: Any, options: Mapping[str, Any]) -> str:
    output = backbone.model.generate(**inputs, **options)
    new = output[0, inputs["input_ids"].shape[1] :]
    return str(backbone.tokenizer.decode(new, skip_special_tokens=True)).strip()


def _draw(backbone: Backbone, inputs: Any, picture: Any, kept: list[int], path: Path) -> None:
    visual = backbone.encode(inputs, image_sizes=[(picture.height, picture.width)])[0]
    if visual.boxes is None:
        raise ResPruneError(
            f"{path}: where the tokens of this model lie in the image is not known; leave --draw "
            "out"
        )
    save_png(draw_kept(picture, visual.boxes[kept].tolist()), path)
