"""VQA accuracy: cases worked out by hand from the published rule."""

import pytest

from tuner.tasks.vqa_accuracy import vqa_accuracy, vqa_normalized


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("The  Cat\n", "cat"),
        ("an apple and a pear", "apple and pear"),
        ("Two", "2"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("wed", "wed"),  # a word of its own
        ("red, white", "red white"),
        ("3,000", "3000"),
        ("coca-cola", "coca cola"),
        ("left - right", "left right"),
        ("(yes)", "yes"),
        ("john's", "john 's"),
        ("7:30 p.m.", "7:30 pm"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("no.", "no"),
        ("", ""),
    ],
)
def test_normalised(answer, text):
    assert vqa_normalized(answer) == text


def test_only_32_periods_go_as_in_the_published_code():
    assert vqa_normalized("x" + "." * 40) == "x" + "." * 8


@pytest.mark.parametrize(
    ("right", "score"),
    # leaving out one who agrees takes one vote away, leaving out another does not
    [(0, 0.0), (1, 0.9 / 3), (2, (2 * 1 + 8 * 2) / 30), (3, (3 * 2 + 7 * 3) / 30), (4, 1), (10, 1)],
)
def test_accuracy_leaves_one_annotator_out(right, score):
    answers = ["cat"] * right + ["dog"] * (10 - right)
    assert vqa_accuracy("The cat.", answers) == pytest.approx(score)


def test_accuracy_compares_normalised_answers_and_needs_some():
    assert vqa_accuracy("two", ["2"] * 5 + ["Two"] * 5) == 1.0
    assert vqa_accuracy("two", ["22"] * 10) == 0.0
    assert vqa_accuracy("two", []) == 0.0
    assert vqa_accuracy("two", ["2"]) == 0.0  # nobody is left to agree
