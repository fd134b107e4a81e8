"""Rules of the benchmarks: cases worked out by hand; ``tests/lmms`` compares with lmms-eval."""

import copy
import math
from functools import partial

import pytest

from resprune.errors import StudyError
from tuner.tasks.benchmarks.rules import (
    gqa,
    mmbench,
    mme,
    pope,
    scienceqa,
    textvqa,
    vizwiz,
    vqav2,
)

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
GQA = {"question": "Is it red?", "answer": "Yes"}
MME = {
    "question": "Is there a cat? Please answer yes or no.",
    "answer": "Yes",
    "category": "OCR",
    "question_id": "OCR/1.png",
}
POPE = {"question": " Is there a cat? ", "answer": "yes"}
SCIENCE = {"question": "Which?", "hint": "", "choices": ["cat", "dog"], "answer": 1}
MMBENCH = {
    "index": 3,
    "question": "Which?",
    "hint": "A hint.",
    "A": "cat",
    "B": "dog",
    "C": "fox",
    "D": "nan",
    "answer": "B",
}
VOTES = ["", "cat", "dog", "dog", "dog", "dog", "", "fox", "fox", "fox"]
VQAV2 = {
    "question": "what IS it?",
    "answers": [{"answer": vote, "answer_id": i} for i, vote in enumerate(VOTES)],
}
TEXTVQA = {"question": "what IS it?", "answers": VOTES}
RULES = [
    (gqa, GQA),
    (mme, MME),
    (pope, POPE),
    (scienceqa, SCIENCE),
    (mmbench, MMBENCH),
    (vqav2, VQAV2),
    (textvqa, TEXTVQA),
    (vizwiz, TEXTVQA),
]


@pytest.mark.parametrize(
    ("prompt", "row", "text"),
    [
        (gqa.prompt, GQA, "Is it red?" + SHORT),
        (mme.prompt, MME, "Is there a cat?" + SHORT),  # its own answer format goes
        (pope.prompt, POPE, "Is there a cat?" + SHORT),  # stripped
        (vqav2.prompt, VQAV2, "what IS it?" + SHORT),  # as it is
        (textvqa.prompt, TEXTVQA, "What is it?" + SHORT),  # capitalised, all else lowered
        (
            vizwiz.prompt,
            TEXTVQA,
            "What is it?\nWhen the provided information is insufficient, respond with "
            "'Unanswerable'." + SHORT,
        ),
        (scienceqa.prompt, SCIENCE, "Which?\nA. cat\nB. dog" + LETTER),  # no hint, no context
        (
            scienceqa.prompt,
            {**SCIENCE, "hint": "H."},
            "Context: H.\nWhich?\nA. cat\nB. dog" + LETTER,
        ),
        (scienceqa.prompt, {**SCIENCE, "hint": None}, "NoneWhich?\nA. cat\nB. dog" + LETTER),
        (
            mmbench.prompt,  # option D is missing; E is no column of old versions
            MMBENCH,
            "A hint. Which? There are several options:\nA. cat\nB. dog\nC. fox\n" + LETTER,
        ),
        (
            mmbench.prompt,
            {**MMBENCH, "hint": "nan", "B": None, "C": math.nan},
            "Which? There are several options:\nA. cat\n" + LETTER,
        ),
        (
            partial(mmbench.prompt, language="cn"),  # a hint "nan" is written out in Chinese
            {**MMBENCH, "hint": "nan"},
            "nan Which? There are several options:\nA. cat\nB. dog\nC. fox\n"
            "\n请直接使用所提供的选项字母作为答案回答。",
        ),
        (
            partial(mmbench.prompt, language="cn"),
            {**MMBENCH, "hint": None, "D": "", "E": "elk\n"},
            "Which? There are several options:\nA. cat\nB. dog\nC. fox\nE. elk\n"
            "\n请直接使用所提供的选项字母作为答案回答。",
        ),
    ],
)
def test_prompt(prompt, row, text):
    assert prompt(row) == text


@pytest.mark.parametrize(("rule", "row"), RULES)
def test_the_question_is_in_the_prompt_and_the_row_stays_as_it_is(rule, row):
    before = copy.deepcopy(row)
    assert rule.prompt(row).count(rule.question(row)) == 1
    rule.answers(row)
    rule.summary([row] * 2, ["yes", "no"])
    assert row == before


@pytest.mark.parametrize(
    ("rule", "row", "answers"),
    [
        (gqa, GQA, ("Yes",)),
        (mme, MME, ("yes",)),
        (pope, POPE, ("yes",)),
        (scienceqa, SCIENCE, ("B",)),
        (mmbench, MMBENCH, ("B",)),
        (mmbench, {**MMBENCH, "answer": "nan"}, ()),  # unlabelled, as the test split is
        (vqav2, VQAV2, ("dog",) * 4 + ("fox",) * 3 + ("cat", "", "")),
        (textvqa, TEXTVQA, ("dog",) * 4 + ("fox",) * 3 + ("cat", "", "")),
        (textvqa, {**TEXTVQA, "answers": None}, ()),
        (vqav2, {**VQAV2, "answers": None}, ()),
    ],
)
def test_gold_answers_come_best_first(rule, row, answers):
    assert rule.answers(row) == answers


@pytest.mark.parametrize(
    ("rule", "row", "prediction", "score"),
    [
        (gqa, GQA, " YES.\n", 1),  # case, punctuation and space around
        (gqa, GQA, "yes .", 0),  # the space before the mark stays
        (gqa, GQA, "yes it is", 0),
        (mme, MME, "Yes.", 1),
        (mme, MME, "y", 1),
        (mme, MME, "yes, there is", 1),  # in the first four letters
        (mme, MME, "oh, yes", 0),  # too late
        (mme, MME, "", 0),
        (mme, {**MME, "answer": "No"}, "another", 1),  # "anot" holds "no"
        (mme, {**MME, "answer": "No"}, "no.", 1),
        (mme, {**MME, "answer": "No."}, "n.o", 1),  # all periods go, of the gold answer too
        (mme, MME, "noyes", 0),
        (mme, {**MME, "answer": "No"}, "noyes", 1),  # of "yes" only "ye" is read
        (pope, POPE, " YES\n", 1),
        (pope, POPE, "yes.", 0),  # no punctuation is dropped
        (scienceqa, SCIENCE, "b", 1),
        (scienceqa, SCIENCE, "B. cat", 1),  # what follows is not read
        (scienceqa, SCIENCE, "b. dog", 0),  # a capital is needed before a period
        (scienceqa, SCIENCE, "(B)", 0),
        (scienceqa, SCIENCE, "B) dog", 0),
        (scienceqa, SCIENCE, "dog", 0),
        (mmbench, MMBENCH, "B", 1),
        (mmbench, MMBENCH, "(B) cat", 1),  # the letter goes first
        (mmbench, MMBENCH, "It is a Dog", 1),  # "A" is not "a"; the option's text
        (mmbench, MMBENCH, "A dog is here", 1),  # an "A" among four words may be the article
        (mmbench, MMBENCH, "A or B", 0),  # both stand alone; of equal forms, the start is surest
        (mmbench, MMBENCH, "cat or dog", 0),  # two texts, no letter
        (mmbench, MMBENCH, "dog, banana", 0),  # "nan", the text of the missing D, is named too
        (mmbench, {**MMBENCH, "D": None}, "dog, banana", 1),
        (mmbench, {**MMBENCH, "B": "Red Dog"}, "red dog", 1),
        (mmbench, {**MMBENCH, "B": " dog"}, " dog", 0),  # stripped: the space is missing
        (mmbench, MMBENCH, "(A), (B), (A), I think", 0),  # the last of equal forms
        (mmbench, MMBENCH, "(A), (A), (B), I think", 1),
        (mmbench, MMBENCH, "A: no, so I pick B for now", 1),  # a phrase is surer than a colon
        (mmbench, {**MMBENCH, "E": "elk", "answer": "E"}, "elk", 0),  # not searched for
        (mmbench, MMBENCH, "", 0),
        (mmbench, MMBENCH, "我选B。", 1),  # a phrase before it
        (mmbench, {**MMBENCH, "answer": "E"}, "E", 1),
        (vqav2, VQAV2, "The dog.", 1),  # 4 annotators: 3 or 4 are left
        (vqav2, VQAV2, "cat", 0.9 / 3),  # 1 annotator: left out once in ten times
        (vqav2, VQAV2, "bird", 0),
        (vqav2, {**VQAV2, "answers": None}, "dog", 0),
        (textvqa, {**TEXTVQA, "answers": ["john's"] * 10}, "john 's", 1),  # split off
        (textvqa, {**TEXTVQA, "answers": []}, "dog", 0),
        (vizwiz, {**TEXTVQA, "answers": ["unanswerable"] * 10}, "Unanswerable.", 1),
    ],
)
def test_score(rule, row, prediction, score):
    assert rule.score(prediction, row) == pytest.approx(score)


def test_vqav2_splits_no_possessive_off():
    row = {**VQAV2, "answers": [{"answer": "john's", "answer_id": i} for i in range(10)]}
    assert vqav2.score("john 's", row) == 0
    assert vqav2.score("John's", row) == 1


@pytest.mark.parametrize(("rule", "row"), [(gqa, GQA), (scienceqa, SCIENCE), (vqav2, VQAV2)])
def test_exact_match_is_the_mean_score(rule, row):
    right = rule.answers(row)[0]
    assert rule.summary([row] * 4, [right, "x", "y", right]) == {"exact_match": 0.5}


def test_a_summary_needs_an_answer_a_row():
    with pytest.raises(ValueError, match="zip"):
        gqa.summary([GQA, GQA], ["yes"])


def test_pope_counts_yes_and_no():
    gold = ["yes", "yes", "yes", "no", "no"]
    rows = [{**POPE, "answer": answer} for answer in gold]
    found = pope.summary(rows, ["yes", "no", "maybe", "yes", "no"])
    assert found == {
        "pope_accuracy": 2 / 5,
        "pope_precision": 1 / 2,  # of two that were called "yes"
        "pope_recall": 1 / 2,  # "maybe" does not count as missed
        "pope_f1_score": 1 / 2,
        "pope_yes_ratio": 3 / 5,  # of the gold answers
    }
    assert pope.summary(rows[3:], ["no", "no"])["pope_f1_score"] == 0


def test_mme_gives_a_category_200_points_at_most():
    rows = [
        {**MME, "category": category, "question_id": image, "answer": answer}
        for category, image in [("OCR", "1"), ("OCR", "2"), ("count", "1"), ("code_reasoning", "1")]
        for answer in ("Yes", "No")
    ]
    given = ["yes", "no", "yes", "yes", "no", "yes", "yes", "no"]
    # OCR: (200 + 50) / 2, as of the second image one is right; count: nothing is right
    assert mme.summary(rows, given) == {"mme_perception_score": 125, "mme_cognition_score": 200}


def test_mme_needs_both_questions_of_an_image():
    with pytest.raises(StudyError, match=r"OCR/1\.png' has a score with 2 questions, found 1"):
        mme.summary([MME], ["yes"])


def test_mmbench_needs_every_rotation():
    turned = {**MMBENCH, "index": 1_000_003, "answer": "A"}
    other = {**MMBENCH, "index": 4}
    lone = {**MMBENCH, "index": 2_000_009}  # its question was not drawn: it does not count
    rows = [MMBENCH, turned, other, lone]
    assert mmbench.summary(rows, ["B", "A", "C", "B"]) == {"gpt_eval_score": 50}
    assert mmbench.summary(rows, ["B", "B", "C", "B"]) == {"gpt_eval_score": 0}
