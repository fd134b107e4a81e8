"""Scorers: how an answer is held against a row of data. One function each, found by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import regex

from resprune.errors import StudyError, near_names
from tuner.scoring.metrics import normalized
from tuner.tasks.base import Sample, exact_match
from tuner.tasks.vqa_accuracy import vqa_accuracy

Measures = Callable[[Sequence[str], Sequence[Sample]], dict[str, float]]
_ANLS_LEAST = 0.5  # similarity below which an answer counts as wrong (Biten et al., section 4.1)
_PATTERN_SECONDS = 1.0
_LETTER = re.compile(r"^\W*([A-Za-z])(?:\W|$)")
_SAID = re.compile(r"\b(?:answer|option|choice)\b\W*(?:is|:)?\W*\(?([A-Z])\b", re.IGNORECASE)
WORD = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Scorer:
    """A rule of scoring.

    Attributes:
        score: Scores an answer to a sample from 0 to 1.
        binary: Whether scores are 0 or 1 and nothing between.
        answer_format: What is appended to a question where the study does not say.
        measures: Measures all answers together, by name: what is no mean of scores.
        letters: Whether the gold answer is a letter of ``choices``.
    """

    score: Callable[[str, Sample], float]
    binary: bool = True
    answer_format: str = WORD
    measures: Measures | None = None
    letters: bool = False


def exact(prediction: str, sample: Sample) -> float:
    """Score 1 where case, punctuation and spaces apart it is one of the answers."""
    return exact_match(prediction, sample.answers)


def vqa(prediction: str, sample: Sample) -> float:
    """Score by agreement with the annotators; see ``vqa_accuracy``."""
    return vqa_accuracy(prediction, sample.answers)


def anls(prediction: str, sample: Sample) -> float:
    """Score by edit distance: average normalised Levenshtein similarity of one answer.

    Source: Biten et al., Scene Text Visual Question Answering, arXiv 1905.13648, equation 1: one
    minus the distance over the longer length, against the nearest answer, in lower case and with
    single spaces; 0 where that is not above .5.
    """
    best = max((_similarity(prediction, answer) for answer in sample.answers), default=0.0)
    return best if best > _ANLS_LEAST else 0.0


def contains(prediction: str, sample: Sample) -> float:
    """Score 1 where the words of an answer stand in it, side by side; case apart."""
    said = f" {normalized(prediction)} "
    words = [normalized(answer) for answer in sample.answers]
    return float(any(f" {each} " in said for each in words if each))


def pattern(prediction: str, sample: Sample) -> float:
    """Score 1 where an answer, a regular expression, is found in it.

    Raises:
        StudyError: The search took a second.
    """
    try:
        return float(
            any(
                regex.search(answer, prediction, timeout=_PATTERN_SECONDS) is not None
                for answer in sample.answers
            )
        )
    except TimeoutError:
        raise StudyError(
            f"sample {sample.id!r}: its pattern was searched for {_PATTERN_SECONDS:g} s in an "
            "answer; write one without nested repetitions"
        ) from None


def choice(prediction: str, sample: Sample) -> float:
    """Score 1 where it names the right option: by its letter, or by its text alone.

    A letter counts at the beginning ('B', '(b)', 'B. a cat'), or after 'answer is' and the like.
    """
    choices = sample.row.get("choices", ())
    return float(chosen(prediction, choices) in sample.answers[:1])


def chosen(prediction: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer names, None where it names none."""
    letters = ascii_uppercase[: len(choices)]
    text = prediction.strip()
    alike = [normalized(option) for option in choices]
    if normalized(text) in alike:
        return letters[alike.index(normalized(text))]
    for found in (_LETTER.match(text), _SAID.search(text)):
        if found is not None and found[1].upper() in letters:
            return found[1].upper()
    return None


def yes_no(prediction: str, sample: Sample) -> float:
    """Score 1 where its first word is the answer's: yes or no."""
    return float(_first_word(prediction) in map(_first_word, sample.answers[:1]))


def yes_no_measures(predictions: Sequence[str], samples: Sequence[Sample]) -> dict[str, float]:
    """Measure precision, recall and F1 of 'yes', and how often it is said (Li et al., POPE)."""
    said = [_first_word(text) == "yes" for text in predictions]
    gold = ["yes" in map(_first_word, sample.answers[:1]) for sample in samples]
    right = sum(s and g for s, g in zip(said, gold, strict=True))
    precision, recall = _share(right, sum(said)), _share(right, sum(gold))
    return {
        "precision": precision,
        "recall": recall,
        "F1": _share(2 * precision * recall, precision + recall),
        "yes ratio": _share(sum(said), len(said)),
    }


_SCORERS: Mapping[str, Scorer] = {
    "exact": Scorer(exact),
    "vqa": Scorer(vqa, binary=False),
    "anls": Scorer(anls, binary=False),
    "contains": Scorer(contains),
    "regex": Scorer(pattern),
    "choice": Scorer(choice, answer_format=LETTER, letters=True),
    "yes-no": Scorer(yes_no, measures=yes_no_measures),
}


def names() -> list[str]:
    """Return the names of every scorer."""
    return list(_SCORERS)


def get(name: str) -> Scorer:
    """Return the scorer of that name.

    Raises:
        StudyError: An unknown name; near names are suggested.
    """
    if name not in _SCORERS:
        raise StudyError(f"unknown scorer {name!r}. {near_names(name, _SCORERS)}")
    return _SCORERS[name]


def check_pattern(text: str) -> None:
    """Check a regular expression.

    Raises:
        StudyError: It is none.
    """
    try:
        regex.compile(text)
    except (regex.error, RecursionError, OverflowError) as error:
        raise StudyError(f"{text[:80]!r} is no regular expression ({error})") from None


def _similarity(one: str, other: str) -> float:
    a, b = (" ".join(text.lower().split()) for text in (one, other))
    longest = max(len(a), len(b))
    return 1.0 if longest == 0 else 1.0 - _distance(a, b) / longest


def _distance(a: str, b: str) -> int:
    """Return the Levenshtein distance: insertions, deletions and substitutions."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def _first_word(text: str) -> str:
    return (normalized(text).split() or [""])[0]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
