"""``resprune-tune validate``: what can be known of a study without weights and without the hub."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from resprune import backbones
from resprune.backbones import Backbone
from resprune.errors import ResPruneError
from tuner import tasks
from tuner.models import is_local, load_backbone
from tuner.run import check_model, load_samples
from tuner.study.budget import count_of
from tuner.study.schema import StudyConfig


def check_study(study: StudyConfig) -> list[str]:
    """Check a study as far as what is on this machine allows.

    A local model is checked itself; of a model on the hub, its family in the usual shape. Samples
    are read where they are local.

    Args:
        study: The study, its file already checked.

    Returns:
        What was found fine, and what could not be checked, a line each.

    Raises:
        ResPruneError: Something is wrong.
    """
    task = tasks.make(study.task)
    if task.local:
        load_samples(study, task)
    left = []
    family = study.backbone.family
    backbone: Backbone | None = None
    if is_local(study.backbone):
        backbone = load_backbone(study.backbone, weights=False)
        check_model(study, backbone)
    else:
        if family is not None:
            backbone = usual_backbone(family)
            try:
                check_model(study, backbone)
            except ResPruneError as error:
                left.append(f"warning: against the usual {family} model: {error}")
        left.append(f"not checked: the model {study.backbone.model}, which is on the hub")
    if not task.local:
        left.append(f"not checked: the data set {task.source}, which is on the hub")
    if study.task.fit is None:
        left.append("note: there is no task.fit, so alpha is the same for every prompt")
    return [_verdict(study, backbone), *left]


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


def _verdict(study: StudyConfig, backbone: Backbone | None) -> str:
    visual_tokens = None if backbone is None else backbone.visual_tokens
    budgets = study.budgets()
    if visual_tokens is not None:
        budgets = tuple(count_of(budget, visual_tokens) for budget in budgets)
    listed = ", ".join(map(str, budgets))
    if study.varies(visual_tokens):
        kept = f"budgets {listed} (a ratio is a share of each image's tokens)"
    else:
        kept = f"{listed} tokens"
    return f"fine ({study.study.trials} trials at {kept})"
