import dataclasses
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resprune.alpha import FEATURE_NAMES, FEATURES, PromptContext, prompt_features
from resprune.alpha.features import MAP_FEATURES

Word = namedtuple("Word", "text pos")


def measure(question="", *, tags=(), nouns=(), **rest):
    context = PromptContext(question, [Word(*t) for t in tags], nouns, **rest)
    return dict(zip(FEATURE_NAMES, prompt_features(context), strict=True))


def test_every_feature_has_a_reason_in_code_and_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "alpha.md").read_text(encoding="utf-8")
    for name, reason in FEATURES.items():
        assert len(reason) > 20, name
        assert f"`{name}`" in page, name


def test_neither_the_question_type_nor_the_answer_can_be_given():
    assert {f.name for f in dataclasses.fields(PromptContext)} == {
        "question",
        "tags",
        "nouns",
        "noun_ranks",
        "noun_norms",
        "cosines",
    }


@settings(deadline=None, max_examples=150)
@given(
    question=st.text(max_size=200),
    tags=st.lists(st.tuples(st.text(max_size=8), st.sampled_from(["NOUN", "ADJ", "", "PROPN"]))),
    nouns=st.lists(st.text(max_size=8), max_size=20),
    numbers=st.lists(st.floats(), max_size=20),
    cosines=st.none()
    | hnp.arrays(
        np.float32, st.tuples(st.integers(0, 4), st.integers(0, 30)), elements=st.floats(width=32)
    ),
)
def test_finite_for_any_prompt(question, tags, nouns, numbers, cosines):
    context = PromptContext(
        question, [Word(*t) for t in tags], nouns, numbers, numbers[::-1], cosines
    )
    features = prompt_features(context)
    assert features.shape == (len(FEATURE_NAMES),)
    assert features.dtype == np.float64
    assert np.isfinite(features).all()
    assert np.abs(features).max() <= 100


@pytest.mark.parametrize("question", ["", "🙂🙂", "?" * 10_000, "word " * 2_000, "a.\nb)\n" * 500])
def test_odd_prompts_are_bounded(question):
    words = [Word(w, "NOUN") for w in question.split()]
    context = PromptContext(question, words, [w.text for w in words], [0.5] * len(words))
    features = prompt_features(context)
    assert np.isfinite(features).all()
    assert np.abs(features).max() <= 10


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("What color is the star?", "asks_what"),
        ("In the image, which shape is red?", "asks_which"),
        ("Who is it?", "asks_who"),
        ("Where is the cat?", "asks_where"),
        ("Why is he running?", "asks_when_why"),
        ("How is the weather?", "asks_how"),
        ("How many stars are there?", "asks_how_many"),
        ("What is the number of stars?", "asks_how_many"),
        ("Count the stars.", "asks_how_many"),
        ("Is there a star?", "asks_yes_no"),
        ("Look closely. Does it have a tail?", "asks_yes_no"),
        ("Describe what is shown", "asks_what"),
        ("Describe the picture.", "asks_nothing"),
        ("The dog is red", "asks_nothing"),
    ],
)
def test_exactly_one_question_kind(question, kind):
    values = measure(question)
    assert [n for n in FEATURE_NAMES if n.startswith("asks_") and values[n]] == [kind]


def test_attribute_prompt_differs_from_noun_prompt():
    tagged = [("What", "PRON"), ("digit", "NOUN"), ("is", "AUX"), ("on", "ADP"), ("the", "DET")]
    generic = measure(
        "What digit is on the red thing?",
        tags=[*tagged, ("red", "ADJ"), ("thing", "NOUN")],
        nouns=["digit", "thing"],
    )
    specific = measure(
        "What digit is on the star?", tags=[*tagged, ("star", "NOUN")], nouns=["digit", "star"]
    )
    assert (generic["colors"], generic["adjectives"], generic["modified_nouns"]) == (1, 1, 0.5)
    assert (specific["colors"], specific["adjectives"], specific["modified_nouns"]) == (0, 0, 0)
    assert generic["reading_words"] == specific["reading_words"] == 1
    assert generic["noun_share"] == pytest.approx(2 / 7)


@pytest.mark.parametrize(
    ("question", "name", "value"),
    [
        ("Which color is the most common?", "comparisons", 2),
        ("Which one is largest?", "comparisons", 1),
        ("Is there a forest?", "comparisons", 0),
        ("What is to the left of the cup?", "spatial_words", 1),
        ("Is there a cup in the picture?", "global_words", 1),
        ("Is it a cat or a dog?", "options", 1),
        ("Which?\nA. cat\nB. dog\nC) cow", "options", 3),
        ("What is the number of cups?", "reading_words", 0),
        ("What is the number on the cup?", "reading_words", 1),
    ],
)
def test_word_lists(question, name, value):
    assert measure(question)[name] == value


def test_rarity_of_nouns():
    values = measure(nouns=["a", "b"], noun_ranks=[0.2, 0.6], noun_norms=[1.0, 2.0])
    assert values["rank_mean"] == pytest.approx(0.4)
    assert (values["rank_min"], values["rank_max"]) == (0.2, 0.6)
    assert (values["norm_mean"], values["norm_max"]) == (1.5, 2.0)
    unknown = measure(nouns=["a"])
    assert (unknown["rank_mean"], unknown["norm_max"]) == (0.5, 1.0)


def test_a_single_peak_by_hand():
    cosines = np.zeros((1, 100))
    cosines[0, 7] = 0.8
    values = measure(nouns=["star"], cosines=cosines)
    assert values["map_max"] == pytest.approx(0.8)
    assert values["map_mean"] == pytest.approx(0.008)
    assert values["map_gap"] == values["best_noun_gap"] == values["last_noun_gap"]
    assert values["map_gap"] == pytest.approx(0.792)
    assert values["map_peak"] == pytest.approx(99 / np.sqrt(99), rel=1e-4)  # one-hot z-score
    assert values["map_spread"] == pytest.approx(0.01, rel=1e-6)
    assert values["map_half_share"] == 0.01
    assert values["map_top_mass"] == pytest.approx(1.0)
    assert values["map_missing"] == 0


def test_two_level_map_by_hand():
    cosines = np.full((1, 40), 0.1)
    cosines[0, :10] = 0.5
    values = measure(nouns=["star"], cosines=cosines)
    assert values["map_spread"] == pytest.approx(0.25)  # uniform over 10 of 40
    assert values["map_half_share"] == 0.25
    assert values["map_top_mass"] == pytest.approx(0.2)  # 2 of the 10


def test_best_worst_and_agreement_of_two_nouns():
    peak, flat = np.zeros(50), np.full(50, 0.3)
    peak[3] = 1.0
    values = measure(nouns=["star", "color"], cosines=np.stack([peak, flat]))
    assert values["best_noun_gap"] == pytest.approx(0.98)
    assert values["worst_noun_gap"] == values["last_noun_gap"] == pytest.approx(0.0)
    assert values["last_noun_max"] == pytest.approx(0.3)
    apart = np.zeros((2, 50))
    apart[0, 0] = apart[1, 1] = 1.0
    expected = np.corrcoef(apart)[0, 1]
    assert measure(cosines=apart)["noun_agreement"] == pytest.approx(expected)
    assert measure(cosines=np.stack([peak, peak]))["noun_agreement"] == pytest.approx(1.0)


@pytest.mark.parametrize("cosines", [None, np.zeros((0, 196)), np.zeros((2, 0))])
def test_missing_image_is_neutral_and_marked(cosines):
    values = measure("Is there a star?", nouns=["star"], cosines=cosines)
    flat = measure("Is there a star?", nouns=["star"], cosines=np.zeros((1, 196)))
    assert values.pop("map_missing") == 1
    assert flat.pop("map_missing") == 0
    assert values == flat
    assert {n: values[n] for n in MAP_FEATURES if values[n]} == {
        "map_spread": 1.0,
        "map_half_share": 1.0,
        "map_top_mass": 0.05,
        "noun_agreement": 1.0,
    }
