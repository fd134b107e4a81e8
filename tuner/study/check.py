"""``resprune-tune validate``: what can be known of a study without weights and without the hub."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from resprune import backbones
from resprune.backbones import Backbone
from resprune.budget import Count
from resprune.errors import ResPruneError
from tuner import tasks
from tuner.scoring.model import is_local, load_backbone
from tuner.scoring.overlap import PictureHashes, check_pictures
from tuner.stages.claim import claim_test
from tuner.stages.fits import check_model
from tuner.stages.opened import load_samples
from tuner.study.schema import StudyConfig


def check_study(study: StudyConfig) -> list[str]:
    """Check a study as far as what is on this machine allows.

    A local model is checked itself; of a model on the hub, its family in the usual shape. Samples
    are read where they are local, and their images are compared.

    Args:
        study: The study, its file already checked.

    Returns:
        What was found fine, and what could not be checked, a line each.

    Raises:
        ResPruneError: Something is wrong.
    """
    task = tasks.make(study.task)
    asked = None
    if task.local:
        samples = load_samples(study, task)
        asked = claim_test(study, task, samples.get("certify", ()))
        check_pictures(samples, PictureHashes())
    local, family = is_local(study.backbone), study.backbone.family
    backbone: Backbone | None = None
    if local:
        backbone = load_backbone(study.backbone, weights=False)
    elif family is not None:
        backbone = usual_backbone(family)
    left = []
    if backbone is not None:
        try:
            check_model(study, backbone)
        except ResPruneError as error:
            if local:
                raise
            left.append(f"warning: against the usual {family} model: {error}")
    if asked is not None:
        claim, images = asked.claim, asked.split.images
        left.append(
            f"claim: a loss under {claim.loss:g} ({claim.scale}) at confidence "
            f"{claim.confidence:g}, by {asked.test} on {images:,} images"
        )
    if not local:
        left.append(f"not checked: the model {study.backbone.model}, which is on the hub")
    if not task.local:
        left.append(f"not checked: the data set {task.source}, which is on the hub")
    if study.task.fit is None:
        left.append("note: there is no task.fit, so alpha is the same for every prompt")
    return [_verdict(study, None if backbone is None else backbone.visual_tokens), *left]


@cache
def usual_backbone(family: str) -> Backbone:
    """Make a family's backbone around the default config of its model, without weights.

    Args:
        family: One of ``resprune.backbones.names()``.

    Returns:
        A backbone that knows its T and seed signals and cannot encode.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    cls = backbones.get(family)
    config: Any = AutoConfig.for_model(cls.model_types[0])
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=False
        )
    return cls(model, SimpleNamespace(tokenizer=None, image_processor=None))


def _verdict(study: StudyConfig, total: int | None) -> str:
    budgets = [str(b if total is None else b.limit(total)) for b in study.budgets()]
    unit = "tokens" if all(isinstance(b, Count) for b in study.budgets()) else "of an image"
    each = " each" if len(study.search.method) > 1 else ""
    return (
        f"fine ({study.study.trials} trials{each} of {', '.join(study.search.method)} at "
        f"{', '.join(budgets)} {'tokens' if total is not None else unit})"
    )
