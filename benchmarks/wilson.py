"""Shares with their intervals."""

from __future__ import annotations

from scipy.stats import binomtest


def share(count: int, total: int) -> str:
    """Write a share with its 95 % interval (Wilson)."""
    if total == 0:
        return "none"
    found = binomtest(count, total).proportion_ci(method="wilson")
    return f"{100 * count / total:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"
