"""Which option an answer names, as lmms-eval 0.7.3 reads it without a judge.

Source: ``MMBench_Evaluator.can_infer`` and ``extract_mcq_answer`` of lmms-eval 0.7.3; the first
is after MMBench (Liu et al., arXiv 2307.06281).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

_LETTERS = "ABCDE"
_REFUSED = "Failed to obtain answer via API"
# around a letter that stands between spaces; tried in this order
_WRAPPED = (
    *("{}", "{}.", "{},", "{}:", "{})", "{}).", "({})", "({})."),
    *(":{}", ":{},", ":{}.", ":{})", ":{})."),
)
_FEW_WORDS = 3  # in more, an "A" may be the article

_DEFAULT = "ABCDEFGH"
_AROUND = ",.!?;:'\""
# the later, the surer; a letter at the end or the start is surer than all of them
_FORMS = ("{} ", "{})", "{}:", "{}.", "({})")
_ANYWHERE = -1
_PHRASE, _END, _START = len(_FORMS), len(_FORMS) + 1, len(_FORMS) + 2
_NAMED = "answer, correct answer, best answer, correct option, best option, choice, correct choice"
_PHRASES = (
    *(f"{the}{named} is" for the in ("", "the ") for named in _NAMED.split(", ")),
    *("my answer is", "my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


def inferred(answer: str, options: Mapping[str, str]) -> str:
    """Return the letter that an answer surely names, or whose option it contains.

    Args:
        answer: The model's answer.
        options: The option of each letter.

    Returns:
        A letter, or nothing where none or several are named.
    """
    return _standing_alone(answer) or _contained(answer.lower(), options)


def extracted(answer: str, letters: Sequence[str]) -> str:
    """Return the letter that an answer most likely names.

    Of all places where a letter could be meant, that of the surest form, and of those the last.

    Args:
        answer: The model's answer.
        letters: Those there are; A to H where none.

    Returns:
        A letter, or nothing where none occurs.
    """
    text = answer.strip()
    for mark in _AROUND:
        text = text.strip(mark)
    found = list(_places(f" {text} ", letters or _DEFAULT))
    return max(found, key=lambda place: place[:2])[2] if found else ""


def _standing_alone(answer: str) -> str:
    words = answer.split()
    if _REFUSED in answer:
        return ""
    for form in _WRAPPED:
        named = [letter for letter in _LETTERS if form.format(letter) in words]
        article = form == "{}" and "A" in words and len(words) > _FEW_WORDS
        if len(named) == 1 and not article:
            return named[0]
    return ""


def _contained(answer: str, options: Mapping[str, str]) -> str:
    named = [letter for letter, option in options.items() if option.lower() in answer]
    return named[0] if len(named) == 1 else ""


def _places(text: str, letters: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield how sure it is, where it is, and the letter, of each that may be meant."""
    lowered, core = text.lower(), text.strip()
    after = [lowered.find(phrase) + len(phrase) for phrase in _PHRASES if phrase in lowered]
    for letter in letters:
        for sure, form in enumerate(_FORMS):
            if (shown := form.format(letter)) in text:
                yield sure, text.rfind(shown), letter
        for start in after:
            if (place := text.find(letter, start)) >= 0:
                yield _PHRASE, place, letter
        if core.startswith(letter) and not core[1:2].isalpha():
            yield _START, 0, letter
        if core.endswith(letter) and not core[-2:-1].isalpha():
            yield _END, len(text), letter
        if letter in text:
            yield _ANYWHERE, text.rfind(letter), letter
