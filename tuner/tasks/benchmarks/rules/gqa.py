"""GQA: exact match ignoring case and ASCII punctuation.

Source: lmms-eval 0.7.3, task ``gqa`` with its metric ``exact_match``; the data set is that of
Hudson and Manning, arXiv 1902.09506. Kept quirks: white space inside an answer counts, also what
a removed mark leaves behind ("yes ." is not "yes"); strings are NumPy's, which are as wide as the
text was before it was lowered and end before closing NULs.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from tuner.tasks.benchmarks.rules import _common
from tuner.tasks.benchmarks.rules._common import SHORT_ANSWER, Row

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def prompt(row: Row) -> str:
    """Return the text of the user turn."""
    return question(row) + SHORT_ANSWER


def question(row: Row) -> str:
    """Return the bare question."""
    return str(row["question"])


def answers(row: Row) -> tuple[str, ...]:
    """Return the gold answer."""
    return (str(row["answer"]),)


def score(prediction: str, row: Row) -> float:
    """Return 1 where prediction and gold answer are the same but for case and punctuation."""
    return float(_plain(prediction.strip()) == _plain(str(row["answer"])))


def summary(rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
    """Return ``exact_match``, the mean score."""
    return _common.exact_match(score, rows, predictions)


def _plain(text: str) -> str:
    return text.lower()[: len(text)].translate(_NO_PUNCTUATION).rstrip("\0")
