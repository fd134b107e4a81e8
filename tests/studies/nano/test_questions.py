"""Questions: every answer is recomputed from the words of the question alone."""

import random
import re
from collections import Counter

import pytest

from resprune.errors import ResPruneError
from studies.nano.questions import (
    KINDS,
    MAX_QUESTIONS,
    TEMPLATES,
    ask,
    generate_questions,
    render,
)
from studies.nano.scenes import COLOR_NAMES, SHAPES, generate_scene

PLURAL = {"crosses": "cross", **{s + "s": s for s in SHAPES if s != "cross"}}


def oracle(text, objects):
    """Read the question like a person: find the subject, then what is asked of it."""
    words = re.findall(r"[a-z]+", text.lower())
    color = next((w for w in words if w in COLOR_NAMES), None)
    shape = next((PLURAL.get(w, w) for w in words if PLURAL.get(w, w) in SHAPES), None)
    if "most" in words:
        field = "color" if "color" in words else "shape"
        (name, most), *rest = Counter(getattr(o, field) for o in objects).most_common()
        assert not rest or rest[0][1] < most, "the most common one must be unique"
        return name
    found = [o for o in objects if (o.color == color if color else o.shape == shape)]
    if "many" in words or "count" in words or text.startswith("What is the number of"):
        return str(len(found))
    if words[0] in ("is", "do", "can"):
        return "yes" if found else "no"
    assert len(found) == 1, f"{text} must have one referent"
    if "digit" in words or "number" in words:
        return str(found[0].digit)
    return found[0].shape if "shape" in words else found[0].color


def test_answers_follow_from_the_objects():
    kinds = Counter()
    for seed in range(400):
        scene = generate_scene(seed)
        for q in generate_questions(scene, seed, 8):
            assert q.answer == oracle(q.text, scene.objects), (seed, q)
            kinds[q.kind] += 1
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 60


def test_no_single_answer_dominates_a_kind():
    answers = {kind: Counter() for kind in KINDS}
    for seed in range(400):
        for q in generate_questions(generate_scene(seed), seed, 8):
            answers[q.kind][q.answer] += 1
    for kind, found in answers.items():
        assert found.most_common(1)[0][1] / found.total() < 0.6, (kind, found)


def test_every_kind_has_at_least_four_wordings_and_all_are_used():
    asked = {q.text for s in range(1500) for q in generate_questions(generate_scene(s), s, 8)}
    for kind, wordings in TEMPLATES.items():
        assert len(set(wordings)) >= 4, kind
        for wording in wordings:
            filled = {render(wording, name) for name in (*SHAPES, *COLOR_NAMES)}
            assert filled & asked, wording


def test_deterministic_and_extended_by_a_larger_count():
    scene = generate_scene(5)
    many = generate_questions(scene, 9, MAX_QUESTIONS)
    assert generate_questions(scene, 9, 6) == many[:6]
    assert generate_questions(scene, 10, 6) != many[:6]


def test_nothing_is_asked_twice_even_where_little_can_be_asked():
    for seed in range(40):
        objects = generate_scene(seed).objects[:1]
        asked = ask(objects, random.Random(seed), MAX_QUESTIONS)
        assert len({q.text for q in asked}) == MAX_QUESTIONS


@pytest.mark.parametrize("count", [-1, MAX_QUESTIONS + 1])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(ResPruneError, match=f"count is {count}"):
        generate_questions(generate_scene(0), 0, count)


def test_an_article_fits_its_color():
    assert render("Is there {a} {color} thing?", "orange") == "Is there an orange thing?"
    assert render("Is there {a} {color} thing?", "red") == "Is there a red thing?"
