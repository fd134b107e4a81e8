"""What travels with an image from vLLM's front end to its engine.

As processor arguments, which vLLM hashes with the image: the policy's digest and, where the policy
reads it, the question. Processor, encoder and prefix caches then tell apart what is kept
differently, and nothing else. As fields of the image: the same digest, and the question as it was
read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resprune.nouns import TaggedWord
from resprune.prompt import Question

BUDGET = "resprune_budget"
"""Processor argument of a request: the budget of the config's table that it wants."""

POLICY, QUESTION = "resprune_policy", "resprune_question"
"""Processor arguments made here: the policy's digest, and the question where it is read."""

ASKED, CHOSEN = "resprune_asked", "resprune_chosen"
"""Fields of an image: the question's bytes, (n,) uint8, and ``short`` of the digest, int64."""

_PREFIX = "resprune_"


def without_own(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return processor arguments less those of this package, which no processor knows."""
    return {name: value for name, value in arguments.items() if not name.startswith(_PREFIX)}


def own_names(arguments: Mapping[str, Any]) -> list[str]:
    """Return the names of this package's own arguments among a request's."""
    return sorted(name for name in arguments if name.startswith(_PREFIX))


def pack_question(asked: Question) -> Tensor:
    """Write a question as bytes; an empty one as none.

    Args:
        asked: The question, read.

    Returns:
        Shape (n,), uint8.
    """
    if asked == Question():
        return torch.empty(0, dtype=torch.uint8)
    tags = [list(tag) for tag in asked.tags]
    text = json.dumps([asked.text, tags, list(asked.spans), list(asked.words)])
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def unpack_question(packed: bytes) -> Question:
    """Read what ``pack_question`` wrote."""
    if not packed:
        return Question()
    text, tags, spans, words = json.loads(packed)
    return Question(
        text, [TaggedWord(*tag) for tag in tags], [(start, end) for start, end in spans], words
    )


def short(digest: str) -> int:
    """Return the first 60 bits of a digest, which a field of an image can hold."""
    return int(digest[:15], 16)
