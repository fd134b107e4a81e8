"""VQAv2: accuracy against ten annotators.

Source: lmms-eval 0.7.3, task ``vqav2_val``; the data set is that of Goyal et al., arXiv
1612.00837. Kept quirks, besides those of ``tuner.tasks.vqa_accuracy``: the step that splits
"'s" off and drops commas and question marks first is left out here, unlike in TextVQA, so
"john's" stays one word and a thousands separator changes what becomes of every other mark; the
question is not stripped. Annotators of one row differ in ``answer_id``, as in the data set.
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
    """Return the bare question."""
    return str(row["question"])


def answers(row: Row) -> tuple[str, ...]:
    """Return what each annotator answered, the most frequent first; none where unlabelled."""
    return frequent_first(annotator["answer"] for annotator in row.get("answers") or ())


def score(prediction: str, row: Row) -> float:
    """Return how far the annotators agree with the prediction."""
    return vqa_accuracy(prediction.strip(), answers(row), tokenize=False)


def summary(rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
    """Return ``exact_match``, the mean score."""
    return _common.exact_match(score, rows, predictions)
