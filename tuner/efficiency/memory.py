"""The most memory that a call held above what was held at its start."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

_T = TypeVar("_T")
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def with_peak(call: Callable[[], _T], device: torch.device) -> tuple[_T, int | None]:
    """Run something once and say how much memory it took at most.

    On a GPU this is what torch's allocator held; on a CPU the resident memory of the process,
    whose free pages are handed back first so that a call does not live off an earlier one's.

    Args:
        call: What to run.
        device: Where it runs.

    Returns:
        What it gave, and the bytes over those at its start; None where the system does not tell.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        found = call()
        torch.cuda.synchronize(device)
        return found, torch.cuda.max_memory_allocated(device) - before
    start = _reset_peak()
    found = call()
    if start is None:
        return found, None
    return found, max(0, _resident("VmHWM") - start)


def _reset_peak() -> int | None:
    """Set the peak of the resident memory to what is resident now, and return that."""
    with contextlib.suppress(OSError, AttributeError):  # the C library may have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _RESET.write_text("5", encoding="ascii")  # proc(5): resets VmHWM
        return _resident("VmRSS")
    except (OSError, StopIteration):
        return None


def _resident(name: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
