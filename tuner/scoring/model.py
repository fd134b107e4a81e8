"""The model that a study names: loading it, its fingerprint, and its share of the cores."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from resprune import backbones
from resprune.backbones import Backbone
from resprune.errors import StudyError, near_names
from resprune.textmodel import TextModel
from studies import nano
from tuner.study import BackboneSection

_SMALL_MODEL = 50_000_000  # parameters
_MOST_WORKERS = 4  # they share one interpreter
_SAMPLED = 4096  # values of a parameter that enter the fingerprint


def model_source(name: str) -> str:
    """Return where ``from_pretrained`` finds a model.

    Args:
        name: Name of an embedded model, a folder, or a hub id.

    Returns:
        A folder, or the hub id.

    Raises:
        StudyError: Neither; near names are suggested.
    """
    if name in nano.model_names():
        return str(nano.model_dir(name))
    if Path(name).is_dir():
        return name
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise StudyError(
            f"backbone.model: {name!r} is no embedded model, no folder and no hub id of the form "
            f"user/name. {near_names(name, nano.model_names()) if nano.model_names() else ''}"
        )
    return name


def is_local(section: BackboneSection) -> bool:
    """Say whether the model needs no hub."""
    return Path(model_source(section.model)).is_dir()


def load_backbone(section: BackboneSection, *, weights: bool = True) -> Backbone:
    """Load model and processor, and choose the backbone.

    Args:
        section: What the study says.
        weights: False builds the model without weights, which is enough to check a study.

    Returns:
        The backbone, its model in evaluation mode on its device.

    Raises:
        StudyError: The model cannot be loaded, or is of another family than the study says.
        UnsupportedModelError: No backbone serves it.
    """
    from resprune.processors import load_processor

    source = model_source(section.model)
    try:
        processor = load_processor(source, revision=section.revision, trust_remote_code=False)
        model = _load_model(source, section) if weights else _load_skeleton(source, section)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise StudyError(
            f"backbone.model: {section.model!r} cannot be loaded "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}); give an embedded "
            f"model ({', '.join(nano.model_names()) or 'none shipped'}), a folder or a hub id"
        ) from error
    backbone = backbones.for_model(model, processor)
    if section.family is not None and section.family != backbone.family:
        raise StudyError(
            f"backbone.family: the study says {section.family!r} and {section.model} is of the "
            f"family {backbone.family!r}; write that, or leave the key out"
        )
    if weights and section.text_model is not None:
        backbone.text_model = TextModel(section.text_model, backbone)
    return backbone


def _load_model(source: str, section: BackboneSection) -> Any:
    from transformers import AutoModelForImageTextToText

    device = _device(section.device)
    model = AutoModelForImageTextToText.from_pretrained(
        source,
        revision=section.revision,
        dtype="auto" if section.dtype == "auto" else getattr(torch, section.dtype),
        attn_implementation=section.attn,
        trust_remote_code=False,
    )
    model.to(device=device)  # type: ignore[call-arg]
    return model.train(False)


def _load_skeleton(source: str, section: BackboneSection) -> Any:
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(source, revision=section.revision, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=False
        )


def depth_of(backbone: Backbone) -> int:
    """Return how many decoder layers a model has."""
    return len(backbone.model.get_decoder().layers)


def fingerprint(model: Any, processor: Any) -> str:
    """Hash what decides a model's outputs: config, weights, processor and library versions.

    Of each weight tensor, up to 4,096 evenly spaced values enter, so that it costs little even
    on a large model.

    Args:
        model: A transformers model.
        processor: Its processor.

    Returns:
        32 hex digits.
    """
    import transformers

    digest = hashlib.blake2b(digest_size=16)
    versions = [transformers.__version__, torch.__version__]
    config = {key: value for key, value in model.config.to_dict().items() if key[:1] != "_"}
    processor_config = processor.image_processor.to_dict()
    for part in (versions, config, processor_config, getattr(processor, "chat_template", None)):
        digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    for name, value in model.state_dict().items():
        flat = value.detach().reshape(-1)
        values = flat[:: max(1, flat.numel() // _SAMPLED)].float().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def share_cores(backbone: Backbone) -> int:
    """Share the cores between batches and the operations within one.

    A small model on a CPU runs one batch a core, each on one thread: its operations are too short
    to be worth splitting, and threads that wait for each other lose most when the machine is
    busy. OMP_NUM_THREADS, where set, is the number of cores.

    Args:
        backbone: The model.

    Returns:
        How many batches to run at once.
    """
    if backbone.model.device.type != "cpu":
        return 1
    cores = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    small = backbone.model.num_parameters() <= _SMALL_MODEL
    workers = min(cores, _MOST_WORKERS) if small else 1
    torch.set_num_threads(max(1, cores // workers))
    return workers


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise StudyError(f"backbone.device: {name!r}, but torch sees no GPU; write 'auto' or 'cpu'")
    return torch.device(name)
