"""Calling a model, pruned or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NEW_TOKENS = 4


def greedy(model: Any, inputs: Mapping[str, Any], **options: Any) -> Any:
    """Generate ``NEW_TOKENS`` tokens greedily."""
    return model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **options)


@torch.no_grad()
def forward_logits(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Logits (B, n, vocabulary) of one forward pass, without gradient."""
    logits: Tensor = model(**inputs).logits
    return logits


def new_tokens(output: Tensor, inputs: Mapping[str, Any]) -> list[list[int]]:
    """The tokens after the original prompt."""
    answer: list[list[int]] = output[:, inputs["input_ids"].shape[1] :].tolist()
    return answer


def last_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits at the last token of each row."""
    places = torch.arange(mask.shape[1]).expand_as(mask)
    ends = places.masked_fill(mask == 0, -1).amax(dim=1)
    return logits[torch.arange(len(ends)), ends]
