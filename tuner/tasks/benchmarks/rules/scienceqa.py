"""ScienceQA, the questions with an image: multiple choice among two to five options.

Source: lmms-eval 0.7.3, task ``scienceqa_img``, which scores as LLaVA does; the data set is that
of Lu et al., arXiv 2209.09513. Kept quirks: besides the letter in any case, only "A." with a
capital and whatever follows is read ("A" of "A. cat", not of "a. cat", "(A)" or "A) cat"); a
missing hint (None) is written out as "None" in front of the question.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuner.tasks.benchmarks.rules import _common
from tuner.tasks.benchmarks.rules._common import OPTION_LETTER, Row


def prompt(row: Row) -> str:
    """Return the text of the user turn: hint, question, options, answer format."""
    hint = row["hint"]
    context = f"Context: {hint}\n" if hint else str(hint)
    options = [f"{_letter(place)}. {choice}" for place, choice in enumerate(row["choices"])]
    return f"{context}{question(row)}\n" + "\n".join(options) + OPTION_LETTER


def question(row: Row) -> str:
    """Return the bare question."""
    return str(row["question"])


def answers(row: Row) -> tuple[str, ...]:
    """Return the letter of the gold option."""
    return (_letter(row["answer"]),)


def score(prediction: str, row: Row) -> float:
    """Return 1 where the prediction is the gold letter, or starts with it and a period."""
    given, gold = prediction.strip(), _letter(row["answer"])
    return float(given.lower() == gold.lower() or given[:2] == f"{gold}.")


def summary(rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
    """Return ``exact_match``, the mean score."""
    return _common.exact_match(score, rows, predictions)


def _letter(place: int) -> str:
    return chr(ord("A") + place)
