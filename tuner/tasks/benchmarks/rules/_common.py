"""What the rules share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""A row of a data set of the hub, without its image."""

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
OPTION_LETTER = "\nAnswer with the option's letter from the given choices directly."


def mean(scores: Iterable[float]) -> float:
    """Return the mean of scores; 0 where there are none."""
    found = list(scores)
    return sum(found) / len(found) if found else 0.0


def exact_match(
    score: Callable[[str, Row], float], rows: Sequence[Row], predictions: Sequence[str]
) -> dict[str, float]:
    """Summarise a benchmark that reports the mean of its scores, which it calls exact match.

    Args:
        score: Scores one prediction.
        rows: Rows of the data set.
        predictions: One answer a row, in the same order.
    """
    pairs = zip(rows, predictions, strict=True)
    return {"exact_match": mean(score(prediction, row) for row, prediction in pairs)}


def frequent_first(answers: Iterable[str]) -> tuple[str, ...]:
    """Sort the answers of annotators by how often they were given, empty ones last."""
    found = list(answers)
    times = Counter(found)
    return tuple(sorted(found, key=lambda answer: (not answer.strip(), -times[answer])))
