"""ResPrune in vLLM, out of tree: ``vllm serve MODEL --hf-overrides '{"resprune": "EXPORT_DIR"}'``.

vLLM finds ``register`` under the entry point ``vllm.general_plugins`` and calls it in each of its
processes. Architectures of the served families then have classes of this package, which give vLLM's
own model and processor where ``hf_overrides`` names no pruning config.
"""

from __future__ import annotations

from resprune.serving.vllm.families import FAMILIES


def register() -> None:
    """Tell vLLM of the served families; imports none of their models."""
    from vllm import ModelRegistry

    from resprune.serving.vllm.guard import guard

    for architecture in FAMILIES:
        ModelRegistry.register_model(architecture, f"resprune.serving.vllm.served:{architecture}")
    guard(ModelRegistry)


__all__ = ["register"]
