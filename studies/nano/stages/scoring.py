"""The loss of an answer, and the accuracy by question kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from studies.nano.families import chat_of
from studies.nano.packing import Predictions, pack, predict
from studies.nano.questions import KINDS, Question


def answer_loss(predictions: Predictions) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropy of the answer plus a little of that of the end token."""
    answer = F.cross_entropy(predictions.answer_logits.flatten(0, 1), predictions.answers.flatten())
    end = F.cross_entropy(predictions.end_logits.flatten(0, 1), predictions.ends.flatten())
    right = (predictions.answer_logits.argmax(-1) == predictions.answers).float().mean()
    return answer + 0.05 * end, {"accuracy": right.item()}


def score_by_kind(
    model: Any,
    tokens: torch.Tensor,
    patches: torch.Tensor,
    asked: Sequence[Sequence[Question]],
    placeholders: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Accuracy of the first answer token, overall and by kind; arguments as of `predict`."""
    found: dict[str, list[bool]] = defaultdict(list)
    for begin in range(0, len(asked), 40):
        batch = slice(begin, begin + 40)
        ends = None if placeholders is None else placeholders[batch]
        scored = predict(
            model, tokens[batch], patches[batch], pack(asked[batch], chat_of(model)), ends
        )
        right = (scored.answer_logits.argmax(-1) == scored.answers).flatten().tolist()
        for question, ok in zip((q for qs in asked[batch] for q in qs), right, strict=True):
            found[question.kind].append(ok)
    everything = [ok for oks in found.values() for ok in oks]
    by_kind = {k: round(sum(found[k]) / len(found[k]), 2) for k in KINDS if found[k]}
    return {"monitor": round(sum(everything) / len(everything), 3), "by_kind": by_kind}
