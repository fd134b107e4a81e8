"""Which exact path orders a batch: one choice, by device, shape and what is installed."""

from __future__ import annotations

import importlib.util

import torch

from resprune.errors import ResPruneError, near_names

PATHS = ("lazy", "lazy_masked", "triton", "recurrence")
_WHOLE_GRAM_UP_TO = 8192  # tokens; their Gram matrix is 256 MiB in float32


def has_triton() -> bool:
    """Whether Triton is installed (the extra ``triton``)."""
    return importlib.util.find_spec("triton") is not None


def choose_path(device: torch.device, tokens: int, *, captured: bool = False) -> str:
    """Choose the path that orders images on a device.

    - ``lazy`` on the CPU: each image by itself, in blocks that end when they end.
    - ``triton`` on a GPU with Triton: the whole batch in masked blocks, each one kernel.
    - ``recurrence`` on a GPU without Triton, up to 8,192 tokens: one step a pick on the whole Gram
      matrix launches fewer kernels than masked blocks in plain torch. Also where the call is
      captured: the number of passes must then hold for the worst image, one pick a pass.
    - ``lazy_masked`` beyond: the Gram matrix would not fit beside a model.

    Args:
        device: Where the tokens are.
        tokens: T.
        captured: Whether the host may not look at the result, as in a CUDA graph.

    Returns:
        One of ``PATHS``.
    """
    if device.type == "cpu":
        return "lazy"
    if captured and tokens <= _WHOLE_GRAM_UP_TO:
        return "recurrence"
    if device.type == "cuda" and has_triton():
        return "triton"
    return "recurrence" if tokens <= _WHOLE_GRAM_UP_TO else "lazy_masked"


def check_path(path: str, device: torch.device) -> None:
    """Refuse a path that cannot run.

    Args:
        path: One of ``PATHS``.
        device: Where the tokens are.

    Raises:
        ResPruneError: An unknown path, ``lazy`` off the CPU, or ``triton`` without Triton.
    """
    if path not in PATHS:
        raise ResPruneError(f"unknown path {path!r}. {near_names(str(path), ('auto', *PATHS))}")
    if path == "lazy" and device.type != "cpu":
        raise ResPruneError(f"path 'lazy' runs on the CPU and tokens are on {device}.")
    if path == "triton" and not has_triton():
        raise ResPruneError(
            "path 'triton' needs Triton, which is not installed; pip install "
            "'resprune-tune[triton]', or leave path at 'auto'."
        )
