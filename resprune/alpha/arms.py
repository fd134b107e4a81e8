"""Arms: the values of per-prompt options that are chosen among, and what breaks a tie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from resprune.alpha.arrays import Floats, Ints
from resprune.options import ALPHA_MAX
from resprune.validation import shown


def _number_or_name(value: object) -> float | str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and -1e9 <= value <= 1e9:
        return float(value)
    raise ValueError(f"expected a number or a name, got {shown(value)}")


def _in_range(arm: dict[str, float | str]) -> dict[str, float | str]:
    alpha = arm.get("alpha", 0.0)
    if isinstance(alpha, str) or not 0.0 <= alpha <= ALPHA_MAX:
        raise ValueError(f"alpha must lie within 0 to {ALPHA_MAX:g}, not {shown(alpha)}")
    return arm


def _same_options(arms: list[dict[str, float | str]]) -> list[dict[str, float | str]]:
    kinds = [{name: type(value) for name, value in arm.items()} for arm in arms]
    for place, arm in enumerate(arms):
        if kinds[place] != kinds[0]:
            raise ValueError(
                f"{shown(arm)} gives other options than {shown(arms[0])}; give the same in each"
            )
        if arm in arms[:place]:
            raise ValueError(f"lists {shown(arm)} twice")
    return arms


Arm = Annotated[
    dict[str, Annotated[float | str, BeforeValidator(_number_or_name)]],
    Field(min_length=1),
    AfterValidator(_in_range),
]
"""Value of each per-prompt option, such as ``{"alpha": 0.5, "seed_strategy": "l2_norm"}``."""
Arms = Annotated[list[Arm], Field(min_length=1, max_length=64), AfterValidator(_same_options)]
"""Distinct arms that give the same options."""


def nearest_first(arms: Sequence[Mapping[str, float | str]], fallback: int) -> Ints:
    """Order arms by how near they are to one of them.

    Names that differ count before the distance of numbers; ties go to the earlier arm.

    Args:
        arms: A arms.
        fallback: Index of the one.

    Returns:
        (A,) indices, ``fallback`` first.
    """
    here = arms[fallback]

    def distance(place: int) -> tuple[int, float]:
        names, numbers = 0, 0.0
        for option, value in arms[place].items():
            own = here[option]
            if isinstance(value, str) or isinstance(own, str):
                names += value != own
            else:
                numbers += abs(value - own)
        return names, numbers

    return np.array(sorted(range(len(arms)), key=distance), dtype=np.int64)


def least(losses: Floats, order: Ints) -> Ints:
    """Choose the arm of least loss in each row.

    Args:
        losses: (N, A).
        order: (A,) indices; ties go to the earlier here.

    Returns:
        (N,) indices.
    """
    # rounded, so that a tie of equal losses does not hang on the last bit
    chosen: Ints = order[np.argmin(np.round(losses, 12)[:, order], axis=1)]
    return chosen
