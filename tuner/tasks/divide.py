"""Dividing the images of one table into tune, fit, certify and report, by image and by seed.

Questions that share an image go together, and so do images that show the same or look alike
(``tuner.scoring.overlap``), so that no part has seen what another is tested on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

_Key = TypeVar("_Key", bound=Hashable)
PARTS = ("tune", "fit", "certify", "report")
SHARES = {"tune": 0.25, "certify": 0.5, "report": 0.25}


def divided(groups: Sequence[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """Give every row a part.

    Groups are drawn into an order by the seed and cut into parts of these shares, each of at least
    one group where there are as many, so that none is empty.

    Args:
        groups: The group of each row, whose name alone decides its place in the order.
        shares: Share of the groups by part; their sum is 1.
        seed: Draws the order.

    Returns:
        The part of each row.
    """
    order = sorted(set(groups), key=lambda group: (_lot(seed, group), group))
    names = list(shares)
    ends = [round(len(order) * total) for total in accumulate(shares.values())]
    for place in range(len(names)):  # from the left, then what that took from the right
        ends[place] = max(ends[place], place + 1)
    for place in reversed(range(len(names))):
        ends[place] = min(ends[place], max(0, len(order) - (len(names) - 1 - place)))
    starts = [0, *ends]
    part = {
        group: name
        for name, low, high in zip(names, starts, ends, strict=False)
        for group in order[low:high]
    }
    return [part[group] for group in groups]


def connected(sets: Sequence[Sequence[_Key]], alike: Sequence[tuple[_Key, _Key]]) -> list[_Key]:
    """Join rows that share a member, or have members that are alike.

    Args:
        sets: The members of each row, at least one.
        alike: Pairs of members.

    Returns:
        The name of each row's group: its first member in the order of the rows.
    """
    parent: dict[_Key, _Key] = {}

    def root(key: _Key) -> _Key:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    rank = {key: i for i, key in enumerate(dict.fromkeys(k for row in sets for k in row))}
    pairs = [(row[0], other) for row in sets for other in row[1:]]
    for one, other in [*pairs, *alike]:
        first, second = sorted((root(one), root(other)), key=rank.__getitem__)
        parent[second] = first
    return [root(row[0]) for row in sets]


def _lot(seed: int, group: str) -> bytes:
    return hashlib.blake2b(f"{seed} {group}".encode(), digest_size=16).digest()
