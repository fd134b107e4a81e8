"""Refuses, at start, what cannot be served pruned: never all tokens in silence."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from resprune.errors import ConfigError
from resprune.serving.vllm.families import FAMILIES
from resprune.serving.vllm.settings import checked_config, named

TESTED = ("0.32.0",)
"""Versions of vLLM that the tests have been run with."""


def guard(registry: Any) -> None:
    """Check each model's pruning config when vLLM looks its architecture up, at start.

    vLLM has no hook that sees a model's config before the model is chosen, so the lookup is
    wrapped; where no pruning config is named it does nothing but look up.

    Args:
        registry: ``vllm.ModelRegistry``.
    """
    lookup = getattr(registry, "inspect_model_cls", None)
    if lookup is None:
        _logger().warning(
            "This vLLM has no ModelRegistry.inspect_model_cls: resprune cannot refuse "
            "architectures that it does not serve. Look for 'ResPrune active' below."
        )
        return
    if hasattr(lookup, "__wrapped__"):  # plug-ins may be registered twice in a process
        return

    @functools.wraps(lookup)
    def inspect_model_cls(architectures: Any, model_config: Any) -> Any:
        found = lookup(architectures, model_config)
        if named(model_config.hf_config):
            check_start(model_config.hf_config, found[1])
        return found

    registry.inspect_model_cls = inspect_model_cls


def check_start(hf_config: Any, architecture: str) -> None:
    """Check that a model with a pruning config can be served by this vLLM.

    Raises:
        ConfigError: The config cannot be served, or vLLM is not as this package knows it.
        UnsupportedModelError: The model cannot.
    """
    checked_config(hf_config, architecture)
    check_version()
    module, name = FAMILIES[architecture].target.split(":")
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"resprune: vLLM {version()} is not as this resprune knows it ({error}); it was "
            f"tested with vLLM {', '.join(TESTED)}. Install that, or leave resprune out of "
            "hf_overrides to serve every token"
        ) from error


@functools.cache
def check_version() -> None:
    """Warn, once, where vLLM is none of the tested versions."""
    if version() not in TESTED:
        _logger().warning(
            "ResPrune was tested with vLLM %s and this is %s: compare some answers with "
            "resprune.attach before you rely on it.",
            ", ".join(TESTED),
            version(),
        )


def version() -> str:
    """Return vLLM's release."""
    import vllm

    return str(vllm.__version__).split("+")[0]


def _logger() -> Any:
    from vllm.logger import init_logger

    return init_logger("vllm.resprune")
