"""What vLLM's CPU runner leaves out that its GPU runner does."""

from __future__ import annotations

from typing import Any


def recompute_positions() -> None:
    """Let the CPU runner ask a pruning model for positions, as the GPU runner does.

    ``GPUModelRunner.load_model`` sets ``is_multimodal_pruning_enabled`` from the model and its
    config. ``CPUModelRunner`` replaces that method and leaves the attribute false, so here it is
    read from the same two.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.model_executor.models.interfaces import supports_multimodal_pruning
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    def enabled(runner: Any) -> bool:
        config = runner.model_config.multimodal_config
        return (
            supports_multimodal_pruning(getattr(runner, "model", None))
            and config is not None
            and config.is_multimodal_pruning_enabled()
        )

    def ignore(runner: Any, value: bool) -> None:
        """The runner's own initial value says nothing."""

    CPUModelRunner.is_multimodal_pruning_enabled = property(enabled, ignore)
