"""Comparing logits, and what a model looks like before and after."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare logits relative to the largest expected one."""
    assert found.shape == expected.shape
    worst = (found.float() - expected.float()).abs().max() / expected.float().abs().max()
    assert worst <= tolerance, f"relative difference {float(worst):.2e}, allowed {tolerance:.0e}"


def footprint(model: Any) -> dict[str, Any]:
    """Everything that attaching could leave behind."""
    hooks = {
        (name, kind): len(getattr(module, kind))
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    }
    return {
        "attributes": set(vars(model)),
        "hooks": hooks,
        "config": model.config.to_dict(),
        "generation_config": model.generation_config.to_dict(),
        "training": model.training,
    }
