"""MMBench, English and Chinese: multiple choice, right only in every rotation of the options.

Source: lmms-eval 0.7.3, tasks ``mmbench_en_dev_static`` and ``mmbench_cn_dev`` with the same
scoring, which asks no other model; the data set is that of Liu et al., arXiv 2307.06281. Rows
whose ``index`` agrees modulo a million are one question with its options rotated. Kept quirks:
the Chinese prompt introduces the options in English; a hint that is the text "nan" is left out
in English and written out in Chinese; an empty line precedes the answer format; option E is
asked but not searched for by its text; the text "nan" of a missing option is searched for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

from tuner.tasks.benchmarks.rules._common import OPTION_LETTER, Row, mean
from tuner.tasks.benchmarks.rules._letters import extracted, inferred

Language = Literal["en", "cn"]
_FORMAT: dict[Language, str] = {
    "en": OPTION_LETTER,
    "cn": "\n请直接使用所提供的选项字母作为答案回答。",
}
_ROTATION = 1_000_000
_ASKED, _SEARCHED = "ABCDE", "ABCD"


def prompt(row: Row, language: Language = "en") -> str:
    """Return the text of the user turn: hint, question, options, answer format.

    Args:
        row: A row of the data set.
        language: Which of the two it is from.
    """
    hint = row["hint"]
    bare = _missing(hint) or (language == "en" and hint == "nan")
    options = [
        f"\n{letter}. {row[letter]}"
        for letter in _ASKED
        if row.get(letter) and not _missing(row[letter]) and row[letter] != "nan"
    ]
    listed = ("There are several options:" + "".join(options)).rstrip("\n")
    asked = question(row) if bare else f"{hint} {question(row)}"
    return f"{asked} {listed}\n{_FORMAT[language]}"


def question(row: Row) -> str:
    """Return the bare question."""
    return str(row["question"])


def answers(row: Row) -> tuple[str, ...]:
    """Return the gold letter; none where the row is unlabelled."""
    gold = row.get("answer")
    return (gold,) if gold in set(_ASKED) else ()


def score(prediction: str, row: Row) -> float:
    """Return 1 where this rotation is answered right, whatever the others are."""
    options = {
        letter: str(row.get(letter, "nan"))
        for letter in _SEARCHED
        if not _missing(row.get(letter, "nan"))
    }
    given = prediction.strip()
    named = inferred(given, options) or extracted(given, list(options))
    return float(named == row["answer"])


def summary(rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
    """Return ``gpt_eval_score``: the percentage of questions right in all of their rotations.

    Args:
        rows: Rows of the data set; rotations without their question are left out.
        predictions: One answer a row, in the same order.
    """
    scores: dict[int, list[float]] = defaultdict(list)
    for row, prediction in zip(rows, predictions, strict=True):
        scores[row["index"] % _ROTATION].append(score(prediction, row))
    asked = {row["index"] for row in rows if row["index"] < _ROTATION}
    return {"gpt_eval_score": mean(min(scores[index]) for index in asked) * 100}


def _missing(value: Any) -> bool:
    """Whether a cell is None or not a number."""
    return value is None or value != value
