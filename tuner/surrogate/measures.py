"""What a plan is worth before the LLM has seen it: residual energies, and simple sums beside them.

Pure numbers: nothing here knows of models or studies.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from resprune.relevance import relevance_weights
from resprune.subspace.energy import energy_curve

FORMS: Mapping[str, str] = MappingProxyType(
    {
        "residual": "residual energy",
        "weighted": "residual energy weighted by relevance",
        "area": "area under the residual-energy curve",
    }
)
"""Forms of the surrogate, small where the paper expects good answers, and what they are called."""
BASELINES: Mapping[str, str] = MappingProxyType(
    {
        "count": "tokens kept",
        "norm": "own energy kept",
        "relevance": "relevance kept",
        "attention": "attention kept",
    }
)
"""Simple measures that see no subspace, large where good answers are expected."""
NAMES: Mapping[str, str] = MappingProxyType({**FORMS, **BASELINES})


def measures(
    tokens: Tensor, order: Tensor, relevance: Tensor, alpha: float, attention: Tensor | None = None
) -> dict[str, float]:
    """Measure what one plan keeps of one image.

    Args:
        tokens: Visual tokens V, shape (T, d).
        order: What is kept, in pick order, shape (k,), k at least 1.
        relevance: Relevance r, shape (T,).
        alpha: Exponent of the weights.
        attention: Attention of each token, shape (T,), or None.

    Returns:
        By name. ``residual`` is ``||V - P_S V||_F^2 / ||V||_F^2`` with S the span of the kept
        tokens; ``weighted`` the same with ``r^alpha`` on every row; ``area`` the mean of
        ``residual`` after 1, 2, ..., k picks; ``count`` is k; ``norm``, ``relevance`` and
        ``attention`` are the shares of ``||v||^2``, r and attention that the kept tokens have
        (``attention`` only where it is given). All but ``count`` lie in [0, 1].

    Source: residual energy as in ResPrune, arXiv 2603.21105.
    """
    curve = energy_curve(tokens, order)
    found = {
        "residual": float(curve[-1]),
        "weighted": float(energy_curve(tokens, order, relevance_weights(relevance, alpha))[-1]),
        "area": float(curve.mean()),
        "count": float(len(order)),
        "norm": _share((tokens.double() ** 2).sum(dim=1), order),
        "relevance": _share(relevance, order),
    }
    if attention is not None:
        found["attention"] = _share(attention, order)
    return found


def _share(values: Tensor, order: Tensor) -> float:
    exact = values.double()
    total = float(exact.sum())
    return float(exact[order].sum()) / total if total > 0 else 0.0
