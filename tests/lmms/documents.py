"""Generated rows of the nine data sets, and answers to them that a scorer may trip over."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
Rows = list[tuple[Row, str]]

_WORDS = (
    "a an the A The cat dog red white yes no Yes NO none zero one two Ten eleven dont don't cant "
    "couldn'tve couldnt've Id've im its it's john's JOHN'S lets shed wed twas y'allll 3,000 1,2,3 "
    "3.5 .5 5. 7:30 p.m. u.s.a. $5 50% coca-cola t-shirt left/right rock&roll ½ ２ é École İ ß "
    "Straße ΣΑΣ 猫 答案 unanswerable Unanswerable n/a no. yes, yes; (yes) [no] 'yes' \"no\" ... 🙂"
)
_MARKS = ";/[]\"{}()=+\\_-><@`,?!.:'%&$"
_SPACES = (" ", "  ", "\n", "\t", " \n ", "\u00a0", "\r\n")
_QUESTIONS = (
    "Is there a cat in the image? Please answer yes or no.",
    "  what is WRITTEN on the sign?  ",
    "How many people are there?\n",
    "Please answer yes or no. Is it red? Please answer yes or no.",
    "what's the brand of this Camera",
    "iPhone or ANDROID?",
    "éclair or ßtrudel?",
    "",
)
_HINTS = ("nan", "", None, math.nan, "A cat sits.", "NaN", " two\nlines\n", "0")
_RIGHT_FORMS = (
    *("{}", "{}.", "({})", "{})", "{}:", "{},", "{} ", "({}).", "{}).", ":{}", ":{}.", "{}!"),
    *("'{}'", "{}. {option}", "{}) {option}", "({}) {option}", "{}.{option}", "{}: {option}"),
    *("The answer is {}", "the answer is {}.", "Answer is ({})", "I choose {}, not {other}"),
    *("{other} is wrong. The correct answer is {}.", "{option}", "It is {option}.", "\n{}\n"),
    *("{option}", " {option} ", "{option} banana", "{option}, None", "A {option} is here"),
)
_FORMS = (
    *("{}{option}", "{other} or {}", "{} {other}", "my choice is{}", "{}\n{other}", "Option {}"),
    *(
        "答案是{}",
        "答案为{}。",
        "选{}",
        "정답은 {}",
        "答えは{}",
        "{}\u3002",
        "A cat is on {} there",
    ),
    *("Failed to obtain answer via API {}", "**{}**", "{} or {other}?", "Answer: {}", "({}"),
    *("{option} and {other_option}", "", "nan", "banana"),
)


def noisy(rng: random.Random, text: str) -> str:
    """Change the case, the punctuation or the white space of a text, or nothing."""
    changes: tuple[Callable[[str], str], ...] = (
        str,
        str,
        str.upper,
        str.lower,
        str.title,
        lambda t: t + rng.choice(_MARKS),
        lambda t: rng.choice(_MARKS) + t,
        lambda t: t + "." * rng.choice((2, 31, 32, 33, 40)),
        lambda t: rng.choice(_SPACES) + t + rng.choice(_SPACES),
        lambda t: t.replace(" ", rng.choice(_SPACES)),
        lambda t: t.replace(" ", rng.choice(_MARKS)),
        lambda t: t.replace(" ", rng.choice(_MARKS) + " "),
        lambda t: f"the {t}",
        lambda t: t + " 1,000",
        lambda t: t + "\0",
        lambda t: t[: len(t) // 2] + rng.choice(_MARKS) + t[len(t) // 2 :],
    )
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        text = rng.choice(changes)(text)
    return text


def phrase(rng: random.Random) -> str:
    """A few words, sometimes none."""
    return noisy(rng, " ".join(rng.choices(_WORDS.split(), k=rng.choice((0, 1, 1, 1, 2, 2, 3, 5)))))


def _question(rng: random.Random) -> str:
    return noisy(rng, rng.choice(_QUESTIONS))


def _prediction(rng: random.Random, gold: Sequence[str]) -> str:
    return noisy(rng, rng.choice(gold)) if gold and rng.random() < 0.7 else phrase(rng)


def gqa(rng: random.Random, count: int) -> Rows:
    """Rows of GQA."""
    found = []
    for index in range(count):
        answer = rng.choice(("yes", "no", "t-shirt", "Left", "fire truck", "hi", phrase(rng)))
        row = {"id": str(index), "imageId": "n1", "question": _question(rng), "answer": answer}
        found.append((row, _prediction(rng, [answer, answer, "hİ"])))
    return found


_YES_NO = (
    "yes no Yes NO yes. no. Yes, No, y n Y N y. x none another nope yesterday know noyes yesno "
    "maybe unknown eyes ... .yes. y.e.s. 是"
)


def _yes_no(rng: random.Random, gold: str) -> str:
    plain = (gold, gold.strip().lower(), f"{gold}, there is", "there is no cat", "", "  ")
    return noisy(rng, rng.choice((*plain[:2] * 6, *plain, *_YES_NO.split())))


_KINDS = (
    "existence count position color posters celebrity scene landmark artwork OCR "
    "commonsense_reasoning numerical_calculation text_translation code_reasoning new"
)


def mme(rng: random.Random, count: int) -> Rows:
    """Rows of MME, two an image."""
    found = []
    for index in range(count // 2):
        kind, name = rng.choice(_KINDS.split()), f"{index % 9}/{index}.png"
        for answer in ("Yes", rng.choice(("No", "no.", " NO "))):
            row = {"question_id": name, "category": kind, "question": _question(rng)}
            found.append(({**row, "answer": answer}, _yes_no(rng, answer)))
    rng.shuffle(found)
    return found


def pope(rng: random.Random, count: int) -> Rows:
    """Rows of POPE."""
    found = []
    for index in range(count):
        answer = rng.choice(("yes", "no", "Yes ", "NO"))
        row = {"id": str(index), "question_id": str(index), "question": _question(rng)}
        found.append(({**row, "answer": answer, "category": "random"}, _yes_no(rng, answer)))
    return found


def _named(rng: random.Random, letters: str, gold: str, options: Sequence[str]) -> str:
    """An answer that may name the gold option, or another."""
    right = rng.random() < 0.75
    letter = gold if right else rng.choice((*letters, "F", "Z", gold.lower()))
    option = options[letters.index(letter)] if letter in letters else "elephant"
    form = rng.choice(_RIGHT_FORMS if right else _RIGHT_FORMS + _FORMS)
    other, other_option = rng.choice(letters), rng.choice(options)
    text = form.format(letter, option=option, other=other, other_option=other_option)
    return noisy(rng, text) if rng.random() < 0.4 else text


def scienceqa(rng: random.Random, count: int) -> Rows:
    """Rows of ScienceQA."""
    found = []
    for _ in range(count):
        choices = [phrase(rng) for _ in range(rng.randint(2, 5))]
        place = rng.randrange(len(choices))
        letters = "ABCDE"[: len(choices)]
        row = {"question": _question(rng), "choices": choices, "answer": place}
        hint = rng.choice(_HINTS[:3] + _HINTS[4:])
        found.append(({**row, "hint": hint}, _named(rng, letters, letters[place], choices)))
    return found


def mmbench(rng: random.Random, count: int) -> Rows:
    """Rows of MMBench: questions with their rotations, and rotations without a question."""
    found: Rows = []
    while len(found) < count:
        base, size = len(found), rng.randint(2, 5)
        options = [rng.choice(("cat", "a dog", "Red fox", phrase(rng))) for _ in range(size)]
        shared = {"hint": rng.choice(_HINTS), "question": _question(rng), "source": "s"}
        shared |= {"category": rng.choice("xyz"), "L2-category": "l2", "split": "dev"}
        turns = range(rng.choice((0, 0, 0, 0, 0, 1)), rng.randint(1, size))
        for turn in turns:
            turned = options[turn:] + options[:turn]
            letters = "ABCDE"[:size]
            gold = rng.choice(letters)
            absent = rng.choice(("nan", None, math.nan, ""))
            cells = dict(zip("ABCDE", [*turned, *[absent] * 5], strict=False))
            row = {"index": base + turn * 1_000_000, **shared, **cells, "answer": gold}
            if rng.random() < 0.1 and row["E"] in ("nan", None):
                del row["E"]
            found.append((row, _named(rng, letters, gold, turned)))
    rng.shuffle(found)
    return found


def _annotated(rng: random.Random) -> list[str]:
    few = [phrase(rng) for _ in range(rng.randint(1, 3))]
    return [noisy(rng, rng.choice(few)) for _ in range(rng.choice((10, 10, 10, 10, 1, 3)))]


def vqav2(rng: random.Random, count: int) -> Rows:
    """Rows of VQAv2; some are unlabelled."""
    found = []
    for index in range(count):
        given = _annotated(rng)
        answers = [
            {
                "answer": answer,
                "answer_confidence": rng.choice(("yes", "maybe")),
                "answer_id": place,
            }
            for place, answer in enumerate(given, 1)
        ]
        row: Row = {"question_id": index, "question": _question(rng), "answers": answers}
        row["multiple_choice_answer"] = given[0]
        if rng.random() < 0.02:
            row["answers"] = None
        found.append((row, _prediction(rng, given)))
    return found


def textvqa(rng: random.Random, count: int) -> Rows:
    """Rows of TextVQA and VizWiz; some are unlabelled."""
    found = []
    for index in range(count):
        given = _annotated(rng)
        row: Row = {"question_id": index, "question": _question(rng), "answers": given}
        row["ocr_tokens"] = ["EXIT"]
        if rng.random() < 0.02:
            row["answers"] = None
        found.append((row, _prediction(rng, given)))
    return found
