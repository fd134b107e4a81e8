"""The question of each row: the caller's own, or recovered from the ids without an answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from resprune.backbones import Backbone
from resprune.errors import ResPruneError
from resprune.prepare import IGNORED_LABEL


def questions(
    backbone: Backbone,
    ids: Tensor,
    labels: Tensor | None,
    query: str | Sequence[str | None] | None,
    rows: Collection[int],
) -> dict[int, str]:
    """Find the question of each row.

    Args:
        backbone: Knows the chat template.
        ids: Token ids, shape (B, S), on the CPU.
        labels: Labels of that shape, on the CPU.
        query: The question, one for all or one a row; None recovers it from the ids.
        rows: The rows to read.

    Returns:
        By row.

    Raises:
        ResPruneError: A query that is empty or of another length, or labels of another shape.
    """
    given = _queries(query, len(ids))
    found = {}
    for row in sorted(rows):
        asked = given[row]
        if asked is None:
            asked = _recover(backbone, ids[row], None if labels is None else labels[row])
        found[row] = asked
    return found


def _queries(query: str | Sequence[str | None] | None, rows: int) -> list[str | None]:
    if query is None:
        return [None] * rows
    given: list[str | None] = [query] * rows if isinstance(query, str) else list(query)
    if len(given) != rows:
        raise ResPruneError(f"query has {len(given)} entries for {rows} rows; give one each")
    for row, text in enumerate(given):
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise ResPruneError(
                f"query of row {row} is {text!r}; give the question, or None to recover it from "
                "the ids"
            )
    return given


def _recover(backbone: Backbone, ids: Tensor, labels: Tensor | None) -> str:
    """The question in a row; what the labels supervise may be an answer and is not read."""
    if labels is None:
        return backbone.question(ids)
    asked = _before_answer(ids, labels)
    reaches_image = not len(asked) or int(asked[-1]) == backbone.image_token_id
    # everything is supervised, question and all: only the template can tell them apart
    return backbone.question(ids, closed=True) if reaches_image else backbone.question(asked)


def _before_answer(ids: Tensor, labels: Tensor) -> Tensor:
    """Cut a row before its last supervised run."""
    if labels.shape != ids.shape:
        raise ResPruneError(
            f"labels of a row have shape {tuple(labels.shape)} and its input_ids "
            f"{tuple(ids.shape)}; give one label a token"
        )
    supervised = (labels != IGNORED_LABEL).nonzero()[:, 0]
    if not len(supervised):
        return ids
    gaps = (supervised.diff() != 1).nonzero()[:, 0]
    start = int(supervised[int(gaps[-1]) + 1 if len(gaps) else 0])
    return ids[:start]
