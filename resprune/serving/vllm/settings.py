"""The pruning config of a served model: read from ``hf_overrides``, and checked before a start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resprune import methods
from resprune.alpha import PREDICTOR_FILE, AlphaPredictor
from resprune.attaching.compatible import check_made_for
from resprune.budget import Energy
from resprune.certificate import digest_of, policy_digest
from resprune.config import CONFIG_FILE, PruningConfig
from resprune.errors import ConfigError, UnsupportedModelError
from resprune.plan import needs_of, signals_of
from resprune.serving.vllm.families import FAMILIES, Family
from resprune.setting import Adaptive, Setting, fixed

KEY = "resprune"
"""Key of ``hf_overrides``: a folder or hub id, or the content of a folder's files by name."""


def named(hf_config: Any) -> bool:
    """Say whether a model's config names a pruning config."""
    return getattr(hf_config, KEY, None) is not None


def read_config(hf_config: Any) -> PruningConfig:
    """Read the pruning config that a model's config names.

    The content of its files takes the place of a folder's name, so that every process and every
    cache key sees what was read at start.

    Args:
        hf_config: The model's config, with ``resprune`` from ``hf_overrides``.

    Returns:
        The pruning config.

    Raises:
        ConfigError: It cannot be read.
    """
    given = getattr(hf_config, KEY)
    where = f"hf_overrides.{KEY}"
    if isinstance(given, str):
        config = PruningConfig.from_pretrained(given)
        setattr(hf_config, KEY, _files_of(config))
        return config
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{where} is {type(given).__name__}; give the folder that a study exported, a hub id, "
            f"or the content of {CONFIG_FILE}"
        )
    files = dict(given) if CONFIG_FILE in given else {CONFIG_FILE: dict(given)}
    content = dict(files.pop(CONFIG_FILE))
    data = files.popitem()[1] if len(files) == 1 else None
    if files:
        raise ConfigError(
            f"{where} holds {', '.join(sorted(map(str, given)))}; a pruning config has "
            f"{CONFIG_FILE} and at most one predictor, such as {PREDICTOR_FILE}"
        )
    predictor = None if data is None else AlphaPredictor.from_dict(data, where=where)
    return PruningConfig.from_dict(content, predictor=predictor, where=where)


def checked_config(hf_config: Any, architecture: str) -> PruningConfig:
    """Read a model's pruning config and check that vLLM can serve every policy of it.

    Args:
        hf_config: The model's config.
        architecture: The class that vLLM chose for it.

    Returns:
        The pruning config.

    Raises:
        ConfigError: It cannot be read, was made for another model, or has a policy that cannot be
            served; the message says which and why.
        UnsupportedModelError: The family or the model cannot be served, or lacks a signal.
    """
    family = FAMILIES.get(architecture)
    if family is None:
        raise UnsupportedModelError(
            f"resprune does not serve {architecture} in vLLM; it serves "
            f"{', '.join(FAMILIES)}. Leave resprune out of hf_overrides to serve every token, or "
            "use resprune.attach with transformers"
        )
    config = read_config(hf_config)
    if config.backbone is not None:
        check_made_for(config.backbone, family.name, int(hf_config.text_config.hidden_size))
        if config.backbone.text_model is not None:
            raise ConfigError(
                f"resprune: the config names the text model {config.backbone.text_model!r}, which "
                "is not served; export one without"
            )
    offered = family.signals(hf_config)
    for policy in config.table:
        _check_policy(policy, family, offered)
    return config


def digest(config: PruningConfig, policy: Setting | Adaptive) -> str:
    """Return what tells two selections of the same image and question apart, 32 digits."""
    nouns = config.nouns.model_dump(mode="json") if "nouns" in needs_of(policy) else None
    return digest_of([policy_digest(policy, config.predictor), nouns])


def _files_of(config: PruningConfig) -> dict[str, Any]:
    """Return the files of a config's folder by name."""
    files: dict[str, Any] = {CONFIG_FILE: config.to_dict()}
    for policy in config.table:
        if isinstance(policy, Adaptive) and config.predictor is not None:
            files[policy.predictor] = config.predictor.to_dict()
    return files


def _check_policy(policy: Setting | Adaptive, family: Family, offered: tuple[str, ...]) -> None:
    """Check one policy; its setting where nothing is predicted stands for all its arms."""
    where = f"resprune: the policy at budget {policy.budget}"
    method = methods.get(policy.method)
    if isinstance(policy.budget, Energy):
        raise ConfigError(
            f"{where} follows the image's energy, and vLLM must know from its size how many "
            "tokens it keeps; give a count or a ratio"
        )
    if method.stage not in ("tokens", "none") or fixed(policy).inside is not None:
        raise ConfigError(
            f"{where} does not act on the tokens before the LLM alone ({policy.method!r}), and "
            "vLLM's layers and images are not changed; use one of "
            f"{', '.join(methods.names('tokens'))}"
        )
    if method.stage != "none" and policy.positions != family.positions:
        why = (
            "counts positions without gaps; tune with search.positions = 'compact'"
            if family.positions == "compact"
            else "must know positions of text before the image is encoded; tune with "
            "search.positions = 'keep'"
        )
        raise ConfigError(f"{where} has positions {policy.positions!r}, and vLLM {why}")
    missing = signals_of(needs_of(policy), offered) - set(offered)
    if missing:
        raise UnsupportedModelError(
            f"{where} needs the signal {min(missing)!r}, and {family.name} gives "
            f"{', '.join(offered) or 'none'} in vLLM; use another seed strategy or method"
        )
