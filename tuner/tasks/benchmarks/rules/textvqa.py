"""TextVQA: accuracy against ten annotators; the answer is written in the image.

Source: lmms-eval 0.7.3, task ``textvqa_val``, whose prompt names no OCR tokens; the data set is
that of Singh et al., arXiv 1904.08920. Kept quirks, besides those of
``tuner.tasks.vqa_accuracy``: all letters of the question but the first are lowered.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuner.tasks.benchmarks.rules import _common
from tuner.tasks.benchmarks.rules._common import SHORT_ANSWER, Row, frequent_first
from tuner.tasks.vqa_accuracy import vqa_accuracy


def prompt(row: Row) -> str:
    """Return the text of the user turn."""
    return question(row) + SHORT_ANSWER


def question(row: Row) -> str:
    """Return the bare question, as the prompt writes it."""
    return str(row["question"]).capitalize()


def answers(row: Row) -> tuple[str, ...]:
    """Return what each annotator answered, the most frequent first; none where unlabelled."""
    return frequent_first(row.get("answers") or ())


def score(prediction: str, row: Row) -> float:
    """Return how far the annotators agree with the prediction."""
    return vqa_accuracy(prediction.strip(), answers(row))


def summary(rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
    """Return ``exact_match``, the mean score."""
    return _common.exact_match(score, rows, predictions)
