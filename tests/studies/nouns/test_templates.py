from __future__ import annotations

import json
from pathlib import Path

import spacy
from spacy.tokens import Doc

from studies.nouns.templates import questions

PROMPTS = Path(__file__).parents[2] / "resprune" / "nouns"


def test_the_same_seed_draws_the_same_questions() -> None:
    assert questions(50, 3) == questions(50, 3)
    assert questions(50, 3) != questions(50, 4)


def test_words_are_those_of_spacys_tokenizer() -> None:
    nlp = spacy.blank("en")
    drawn = questions(2000, 1)
    wrong = [s.text for s in drawn if [t.text for t in nlp(s.text)] != list(s.words)]
    assert len(wrong) / len(drawn) < 0.02, wrong[:10]


def test_tags_are_universal_and_slots_are_filled() -> None:
    nlp = spacy.blank("en")
    for sentence in questions(2000, 2):
        Doc(nlp.vocab, words=list(sentence.words), pos=list(sentence.tags))  # refuses other tags
        assert "<" not in sentence.text
        assert "_" not in sentence.text


def test_no_evaluation_prompt_is_drawn() -> None:
    files = sorted(PROMPTS.glob("prompts*.jsonl"))
    assert files
    rows = [json.loads(row) for path in files for row in path.read_text("utf-8").splitlines()]
    lines = {line.lower() for row in rows for line in row["prompt"].splitlines() if "?" in line}
    drawn = {sentence.text.lower() for sentence in questions(20_000, 0)}
    assert not lines & drawn
