"""POPE: is an object in the image, yes or no?

Source: lmms-eval 0.7.3, tasks ``pope``, ``pope_adv``, ``pope_pop`` and ``pope_random``; the data
set is that of Li et al., arXiv 2305.10355. Kept quirks: "Yes." or "yes, there is" is wrong, only
the word itself is right; ``pope_yes_ratio`` counts the gold answers, whatever was predicted;
recall leaves out positives that were answered with neither word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tuner.tasks.benchmarks.rules._common import SHORT_ANSWER, Row, mean


def prompt(row: Row) -> str:
    """Return the text of the user turn."""
    return question(row) + SHORT_ANSWER


def question(row: Row) -> str:
    """Return the bare question."""
    return str(row["question"]).strip()


def answers(row: Row) -> tuple[str, ...]:
    """Return the gold answer, ``yes`` or ``no``."""
    return (_word(row["answer"]),)


def score(prediction: str, row: Row) -> float:
    """Return 1 where the prediction is the gold word and nothing else, in any case."""
    return float(_word(prediction) == _word(row["answer"]))


def summary(rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
    """Return accuracy, precision, recall and F1 of "yes", and the share of "yes" in the gold.

    Args:
        rows: Rows of the data set.
        predictions: One answer a row, in the same order.
    """
    pairs = [(_word(row["answer"]), _word(p)) for row, p in zip(rows, predictions, strict=True)]
    times = Counter(pairs)
    found, missed, wrong = times["yes", "yes"], times["yes", "no"], times["no", "yes"]
    precision, recall = _share(found, wrong), _share(found, missed)
    both = precision + recall
    gold = Counter(answer for answer, _ in pairs)
    return {
        "pope_accuracy": mean(float(answer == given) for answer, given in pairs),
        "pope_precision": precision,
        "pope_recall": recall,
        "pope_f1_score": 2 * (precision * recall) / both if both else 0.0,
        "pope_yes_ratio": _share(gold["yes"], gold["no"]),
    }


def _word(text: str) -> str:
    return text.lower().strip()


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else 0.0
