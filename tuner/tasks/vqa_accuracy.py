"""VQA accuracy: how far ten annotators agree with an answer.

Source: the evaluation of the VQA challenge (Antol et al., arXiv 1505.00468, section 3.3;
visualqa.org/evaluation.html) with the tokenising step of TextVQA and VizWiz. Where the published
code and its description differ, the code's behaviour is kept, so that scores compare with others.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

_ENOUGH = 3  # annotators whose agreement counts as certain
_MOST_PERIODS = 32  # the published code passes a flag, which is 32, where the count belongs
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
# As the published table has them: without those that are words of their own (shed, wed, lets).
_ONE_APOSTROPHE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's "
    "how'd how'll how's I'm I've isn't it'd it'll ma'am might've mightn't must've "
    "mustn't needn't not've o'clock oughtn't shan't should've shouldn't "
    "somebody'll somebody's someone'd someone'll someone's something'd something'll that's "
    "there'd there're there's they'd they'll they're they've 'twas wasn't we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'll who's who've "
    "why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"
)
_TWO_APOSTROPHES = (
    "couldn't've hadn't've he'd've I'd've it'd've mightn't've she'd've shouldn't've "
    "somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've "
    "y'all'll y'all'd've you'd've"
)
_ODD = {
    "somebody'd": "somebodyd",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
}


def _contractions() -> dict[str, str]:
    """Map a contraction that lacks one of its apostrophes to the whole."""
    found = {word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()}
    for word in _TWO_APOSTROPHES.split():
        for place in (i for i, letter in enumerate(word) if letter == "'"):
            found[word[:place] + word[place + 1 :]] = word
    return found | _ODD


_CONTRACTIONS = _contractions()


def vqa_normalized(answer: str, *, tokenize: bool = True) -> str:
    """Normalise an answer as the challenge does.

    Args:
        answer: An answer of a model or of an annotator.
        tokenize: Whether to drop commas and question marks and to split off "'s" first, as is
            done for TextVQA and VizWiz and not for VQAv2.

    Returns:
        Lower case; without articles and most punctuation; number words up to ten as digits;
        contractions with their apostrophes.
    """
    text = _tokenized(answer) if tokenize else answer
    text = text.replace("\n", " ").replace("\t", " ").strip()
    words = _without_punctuation(text).lower().split()
    digits = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_CONTRACTIONS.get(word, word) for word in digits if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str], *, tokenize: bool = True) -> float:
    """Score an answer against those of the annotators.

    The mean, over every choice of all annotators but one, of ``min(1, n / 3)``, where ``n`` of
    the remaining gave this answer.

    Args:
        prediction: The model's answer.
        answers: What each annotator answered, repetitions included.
        tokenize: As for ``vqa_normalized``.

    Returns:
        From 0 to 1; 0 without answers.
    """
    if not answers:
        return 0.0
    given = vqa_normalized(prediction, tokenize=tokenize)
    agree = [vqa_normalized(answer, tokenize=tokenize) == given for answer in answers]
    total = sum(agree)
    return statistics.mean(min(1.0, (total - own) / _ENOUGH) for own in agree)


def _tokenized(answer: str) -> str:
    return answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()


def _without_punctuation(text: str) -> str:
    found = text
    digits = _THOUSANDS.search(text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if beside_space or digits else " ")
    return _PERIOD.sub("", found, count=_MOST_PERIODS)
