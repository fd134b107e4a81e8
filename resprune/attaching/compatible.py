"""Does a pruning config fit a model, and is what it pins installed?"""

from __future__ import annotations

import warnings
from pathlib import PurePath
from typing import Any

from resprune import methods
from resprune.backbones import Backbone
from resprune.config import BackboneRef, NounOptions, PruningConfig
from resprune.errors import ConfigError
from resprune.layers import check_inside
from resprune.nouns import NounExtractor, pipelines
from resprune.plan import needs_of, signals_of
from resprune.setting import Adaptive, Setting


def check_fit(config: PruningConfig, backbone: Backbone) -> None:
    """Check a config against a loaded model.

    Args:
        config: The pruning config.
        backbone: The model's backbone.

    Raises:
        ConfigError: It was made for another family or embedding width.
        UnsupportedModelError: Its default policy needs a signal that the model does not have.
    """
    if config.backbone is not None:
        _check_reference(config.backbone, backbone)
    check_policy(config.policy(), backbone)


def check_policy(policy: Setting | Adaptive, backbone: Backbone) -> None:
    """Check that a policy can serve on an attached model.

    Raises:
        ConfigError: Its method acts on the image, before the vision tower, or cannot drop inside
            this LLM.
        UnsupportedModelError: It needs a signal that the model does not have, or another decoder.
    """
    if methods.get(policy.method).stage == "image":
        raise ConfigError(
            f"the method {policy.method!r} changes the image before the processor, which an "
            "attached model does not see; resize the images yourself, or use a method that "
            f"chooses tokens ({', '.join(methods.names('tokens'))})"
        )
    for setting in [policy] if isinstance(policy, Setting) else policy.arms:
        check_inside(setting, backbone)
    backbone.require_signals(signals_of(needs_of(policy), backbone.seed_signals))


def make_extractor(options: NounOptions) -> NounExtractor:
    """Make the noun extractor that a config names, and load its pipeline.

    Args:
        options: The config's noun options.

    Returns:
        The extractor.

    Raises:
        ConfigError: The pinned pipeline's version is not the installed one.
        PipelineError: The pinned pipeline is not installed.
    """
    extractor = NounExtractor(
        options.pipeline, compounds=options.compounds, stop_nouns=options.stop_nouns
    )
    if options.version is not None and options.version != extractor.pipeline_version:
        raise ConfigError(
            f"the pruning config pins noun pipeline {extractor.pipeline_name} {options.version} "
            f"and {extractor.pipeline_version} is installed; install that version, or tune again "
            "and export"
        )
    pipelines.load(extractor.pipeline_name)
    return extractor


def check_made_for(made_for: BackboneRef, family: str, width: int) -> None:
    """Check that a config was made for models like this one.

    Args:
        made_for: What it was made for.
        family: The model's family.
        width: Width of its input embeddings.

    Raises:
        ConfigError: Another family or width.
    """
    if made_for.family != family:
        raise ConfigError(
            f"the pruning config was made for family {made_for.family!r} and the model is of "
            f"family {family!r}; use a config tuned on this family"
        )
    if made_for.width is not None and made_for.width != width:
        raise ConfigError(
            f"the pruning config was made for embedding width {made_for.width} and the model has "
            f"{width}; use a config tuned on this model"
        )


def _check_reference(made_for: BackboneRef, backbone: Backbone) -> None:
    check_made_for(made_for, backbone.family, backbone.width)
    here = backbone.model.config
    name = getattr(here, "_name_or_path", None) or None
    differing = [
        f"{what} {theirs!r}, here {ours!r}"
        for what, theirs, ours in (
            ("model", made_for.id, _same_name(made_for.id, name)),
            ("revision", made_for.revision, getattr(here, "_commit_hash", None)),
            ("visual tokens", made_for.visual_tokens, backbone.visual_tokens),
        )
        if theirs is not None and ours is not None and theirs != ours
    ]
    if differing:
        warnings.warn(
            f"the pruning config was made for {'; '.join(differing)}: its settings may not be the "
            "best ones here",
            stacklevel=5,  # the caller of attach
        )


def _same_name(wanted: str | None, name: Any) -> Any:
    """The model's name; a folder counts as the model that it is named after."""
    if wanted is not None and name is not None and PurePath(wanted).name == PurePath(name).name:
        return wanted
    return name
