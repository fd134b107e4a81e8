from __future__ import annotations

from pathlib import Path

import pytest
import spacy

from studies.nouns import evaluate, train
from studies.nouns.templates import questions
from studies.nouns.treebank import Sentence

STEPS = 40


@pytest.fixture(scope="module")
def sentences() -> list[Sentence]:
    return questions(400, 7)


def test_a_short_run_learns_saves_and_repeats(
    sentences: list[Sentence], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "WORDS_PER_STEP", 150)
    monkeypatch.setattr(train, "WARMUP_STEPS", 5)
    (tmp_path / "LICENSE.txt").write_text("licence", encoding="utf-8")
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        nlp = train.train(sentences, STEPS, seed=1)
        train.save(nlp, tmp_path, out, {"steps": STEPS})
    assert {path.name for path in tmp_path.iterdir()} == {"LICENSE.txt", "one", "two"}
    for name in ("tok2vec/model", "morphologizer/model"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()

    held_out = questions(100, 8)
    tagger = spacy.load(outs[0])
    found = [[t.pos_ in evaluate.NOUN_TAGS for t in tagger(s.text)] for s in held_out]
    gold = [[tag in evaluate.NOUN_TAGS for tag in s.tags] for s in held_out]
    pairs = [
        pair
        for f, g in zip(found, gold, strict=True)
        if len(f) == len(g)
        for pair in zip(f, g, strict=True)
    ]
    assert sum(f == g for f, g in pairs) / len(pairs) > 0.85


def test_a_failed_save_leaves_nothing(sentences: list[Sentence], tmp_path: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("morphologizer").add_label("POS=NOUN")
    nlp.initialize()
    with pytest.raises(FileNotFoundError):
        train.save(nlp, tmp_path / "missing", tmp_path / "out" / "pipeline", {})
    assert list((tmp_path / "out").iterdir()) == []


def test_score_counts_bags() -> None:
    from collections import Counter

    score = evaluate.score([(Counter("aab"), Counter("abb")), (Counter(), Counter("c"))])
    assert (score.precision, score.recall) == (2 / 3, 2 / 4)
    assert score.f1 == pytest.approx(4 / 7)
    assert evaluate.score([]).f1 == 0.0
