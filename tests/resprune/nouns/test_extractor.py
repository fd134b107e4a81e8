from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resprune.nouns import EMBEDDED, STOP_NOUNS, NounExtractor
from resprune.nouns import extractor as module


@pytest.fixture(scope="module")
def plain() -> NounExtractor:
    return NounExtractor(EMBEDDED)


def test_surface_forms_come_in_order_and_repeat(plain: NounExtractor) -> None:
    prompt = "Is the Dog near the dogs or the other Dog?"
    assert plain.nouns(prompt) == ["Dog", "dogs", "Dog"]


def test_spans_point_into_the_prompt(plain: NounExtractor) -> None:
    prompt = "  What color is\tthe dog?\r\n\r\n  A. the cat\n B) a horse "
    spans = plain.spans(prompt)
    assert [prompt[start:end] for start, end in spans] == ["color", "dog", "cat", "horse"]
    assert plain.nouns(prompt) == ["color", "dog", "cat", "horse"]
    assert spans == sorted(spans)


def test_option_letters_are_dropped(plain: NounExtractor) -> None:
    prompt = "Which animal is this?\nA. dog\nB) cat\n(C) horse\nD: sheep\ne. cow\nIs it A or B?"
    assert plain.nouns(prompt) == ["animal", "dog", "cat", "horse", "sheep", "cow"]
    texts = [word.text for word in plain.content_tags(prompt)]
    assert not {"A", "A.", "B", "C", "D", "e."} & set(texts)


def test_lines_are_tagged_apart(plain: NounExtractor) -> None:
    lines = ["What is on the table?", "a plate", "two red cups", "the man is running"]
    joined = plain.nouns("\n".join(lines))
    assert joined == [noun for line in lines for noun in plain.nouns(line) if noun != "running"]
    assert joined == ["table", "plate", "cups", "man"]


def test_compounds_join_nouns_of_one_line() -> None:
    joined = NounExtractor(EMBEDDED, compounds=True)
    prompt = "Is the fire hydrant near the dining table's chair?\nA. tennis  racket\nB. dog\ncat"
    assert joined.nouns(prompt) == [
        "fire hydrant",
        "dining table",
        "chair",
        "tennis  racket",
        "dog",
        "cat",
    ]


def test_stop_list_is_off_by_default_and_ignores_case(plain: NounExtractor) -> None:
    prompt = "Is there a dog in the Image?"
    assert plain.nouns(prompt) == ["dog", "Image"]
    assert NounExtractor(EMBEDDED, stop_nouns=STOP_NOUNS).nouns(prompt) == ["dog"]
    assert NounExtractor(EMBEDDED, stop_nouns=["DOG"]).nouns(prompt) == ["Image"]


def test_stop_list_must_not_be_one_string() -> None:
    with pytest.raises(TypeError, match="'image'"):
        NounExtractor(EMBEDDED, stop_nouns="image")


def test_without_nouns_content_words_stand_in(plain: NounExtractor) -> None:
    assert plain.nouns("Is it wooden or closed?") == ["wooden", "closed"]
    assert plain.nouns("What are they wearing?") == ["wearing"]
    assert plain.nouns("Is this red?") == ["red"]


def test_stop_list_can_lead_to_the_fallback() -> None:
    stopped = NounExtractor(EMBEDDED, stop_nouns=STOP_NOUNS)
    assert stopped.nouns("Is the image blurry?") == ["blurry"]
    assert stopped.nouns("What is in the image?") == []


@pytest.mark.parametrize(
    "prompt", ["", " \n\t ", "What is this?", "?!...", "A. \nB)", "\U0001f600 \U0001f436", "\n"]
)
def test_nothing_to_say_gives_nothing(plain: NounExtractor, prompt: str) -> None:
    assert plain.nouns(prompt) == []
    assert plain.spans(prompt) == []


@pytest.mark.parametrize(
    "prompt",
    [
        "这张图片里有什么？",
        "Welche Farbe hat der Hund?",
        "ما لون القطة؟",
        "What is the \U0001f436 doing\u200b next to the \U0001f1eb\U0001f1f7 flag?",
        "dog\x00cat\x0bbird\u2028fish",
        "café ﬁsh 犬 Straße",
    ],
)
def test_other_scripts_keep_spans_true(plain: NounExtractor, prompt: str) -> None:
    words = plain.content_tags(prompt)
    assert words
    assert all(prompt[word.start : word.end] == word.text for word in words)
    assert plain.nouns(prompt) == [prompt[start:end] for start, end in plain.spans(prompt)]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.booleans())
def test_any_text_gives_ordered_disjoint_spans(prompt: str, compounds: bool) -> None:
    spans = NounExtractor(EMBEDDED, compounds=compounds).spans(prompt)
    flat = [offset for span in spans for offset in span]
    assert flat == sorted(flat)
    assert all(0 <= start < end <= len(prompt) for start, end in spans)
    assert all(len(prompt[start:end].splitlines()) == 1 for start, end in spans)


def test_content_tags_name_parts_of_speech(plain: NounExtractor) -> None:
    words = plain.content_tags("How many red cups are on the table?")
    assert [(word.text, word.pos) for word in words if word.pos in ("NOUN", "ADJ")] == [
        ("many", "ADJ"),
        ("red", "ADJ"),
        ("cups", "NOUN"),
        ("table", "NOUN"),
    ]
    assert {word.text: word.is_stop for word in words}["the"]
    assert not {word.text: word.is_stop for word in words}["cups"]


def test_a_prompt_is_tagged_once(plain: NounExtractor) -> None:
    prompt = "Which prompt is this one about the violin?"
    before = module._tagged.cache_info().misses
    plain.nouns(prompt)
    plain.spans(prompt)
    plain.content_tags(prompt).clear()
    assert plain.content_tags(prompt)
    assert module._tagged.cache_info().misses == before + 1


def test_threads_agree(plain: NounExtractor) -> None:
    prompts = [f"How many dogs chase the {number} cats near tree{number}?" for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(plain.nouns, prompts))
    module._tagged.cache_clear()
    assert together == [plain.nouns(prompt) for prompt in prompts]


def test_extractors_can_be_copied_and_sent_to_workers(plain: NounExtractor) -> None:
    for twin in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert twin.nouns("Is the dog wet?") == ["dog"]
