"""Counters of the front end, among vLLM's own under ``/metrics``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any


def count(kept: Sequence[int]) -> None:
    """Count the images of a request and the visual tokens that they keep."""
    images, tokens = _counters()
    images.inc(len(kept))
    tokens.inc(sum(kept))


@functools.cache
def _counters() -> tuple[Any, Any]:
    from prometheus_client import Counter

    return (
        Counter("resprune:images", "Images of requests."),
        Counter("resprune:visual_tokens_kept", "Placeholders that these images keep."),
    )
