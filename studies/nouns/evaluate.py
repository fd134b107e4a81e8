"""Measures a noun pipeline: quality, speed and size.

Run ``OMP_NUM_THREADS=1 python -m studies.nouns.evaluate --ewt UD_English-EWT --prompts
tests/resprune/nouns/prompts.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from resprune.nouns import NounExtractor
from resprune.nouns.pipelines import EMBEDDED, embedded_folder, load
from studies.nouns.treebank import Sentence, read_conllu, treebank_file

NOUN_TAGS = frozenset({"NOUN", "PROPN"})


@dataclass(frozen=True)
class Score:
    """Precision, recall and F1 of found things against gold ones, each in [0, 1]."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    def __str__(self) -> str:
        """F1 first, in points."""
        return f"F1 {self.f1:.4f} (precision {self.precision:.4f}, recall {self.recall:.4f})"


def score(pairs: Iterable[tuple[Counter[Any], Counter[Any]]]) -> Score:
    """Micro-averaged score of (found, gold) pairs of bags."""
    hits = found_total = gold_total = 0
    for found, gold in pairs:
        hits += (found & gold).total()
        found_total += found.total()
        gold_total += gold.total()
    return Score(hits / max(found_total, 1), hits / max(gold_total, 1))


def treebank_score(sentences: list[Sentence], pipeline: str = EMBEDDED) -> Score:
    """Score of noun spans (NOUN or PROPN) on running text, words cut by the pipeline itself.

    A noun that is cut otherwise than in the treebank counts as wrong.
    """
    nlp = load(pipeline)
    docs = nlp.pipe(sentence.text for sentence in sentences)
    return score(
        (
            Counter((t.idx, t.idx + len(t)) for t in doc if t.pos_ in NOUN_TAGS),
            Counter(_gold_spans(sentence)),
        )
        for doc, sentence in zip(docs, sentences, strict=True)
    )


def gold_words_score(sentences: list[Sentence], pipeline: str = EMBEDDED) -> Score:
    """Score of nouns when the words are cut as in the treebank: the tagger alone."""
    from spacy.tokens import Doc

    nlp = load(pipeline)
    docs = nlp.pipe(
        Doc(nlp.vocab, words=list(sentence.words), spaces=list(sentence.spaces))
        for sentence in sentences
    )
    return score(
        (
            Counter(at for at, token in enumerate(doc) if token.pos_ in NOUN_TAGS),
            Counter(at for at, tag in enumerate(sentence.tags) if tag in NOUN_TAGS),
        )
        for doc, sentence in zip(docs, sentences, strict=True)
    )


def read_prompts(path: Path) -> list[tuple[str, list[str]]]:
    """Prompts and their gold nouns from a file of JSON lines."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["prompt"], row["nouns"]) for row in rows]


def prompt_score(prompts: list[tuple[str, list[str]]], extractor: NounExtractor) -> Score:
    """Score of the nouns, option letters dropped; fallback words are no nouns and not scored."""
    return score(
        (Counter(tagged_nouns(prompt, extractor)), Counter(gold)) for prompt, gold in prompts
    )


def tagged_nouns(prompt: str, extractor: NounExtractor) -> list[str]:
    """The words of the prompt that are tagged as nouns."""
    return [word.text for word in extractor.content_tags(prompt) if word.pos in NOUN_TAGS]


def milliseconds_per_prompt(prompts: list[str], pipeline: str = EMBEDDED) -> float:
    """Median time to tag one unseen prompt, in milliseconds."""
    extractor = NounExtractor(pipeline)
    extractor.nouns("What is the dog eating?")
    times = []
    for number, prompt in enumerate(prompts):
        unseen = f"{prompt} {number}"
        started = time.perf_counter()
        extractor.nouns(unseen)
        times.append(time.perf_counter() - started)
    return 1000 * median(times)


def size_in_bytes(folder: Path) -> int:
    """Total size of the files under ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _gold_spans(sentence: Sentence) -> list[tuple[int, int]]:
    spans = []
    start = 0
    for word, tag, space in zip(sentence.words, sentence.tags, sentence.spaces, strict=True):
        if tag in NOUN_TAGS:
            spans.append((start, start + len(word)))
        start += len(word) + space
    return spans


def main() -> None:
    """Prints every figure from the command line."""
    parser = argparse.ArgumentParser(description="Measure a noun pipeline.")
    parser.add_argument("--ewt", type=Path, required=True, help="folder of UD_English-EWT")
    parser.add_argument("--prompts", type=Path, help="JSON lines of prompts with gold nouns")
    parser.add_argument("--split", default="test", choices=["dev", "test"])
    parser.add_argument("--pipeline", default=EMBEDDED)
    parser.add_argument("--mistakes", action="store_true", help="list the prompts got wrong")
    options = parser.parse_args()
    sentences = read_conllu(treebank_file(options.ewt, options.split))
    print(f"EWT {options.split}, running text: {treebank_score(sentences, options.pipeline)}")
    print(f"EWT {options.split}, gold words:   {gold_words_score(sentences, options.pipeline)}")
    texts = [sentence.text for sentence in sentences[:200]]
    if options.prompts:
        prompts = read_prompts(options.prompts)
        extractor = NounExtractor(options.pipeline)
        print(f"{len(prompts)} hand-written prompts: {prompt_score(prompts, extractor)}")
        texts = [prompt for prompt, _ in prompts]
        for prompt, gold in prompts:
            found = tagged_nouns(prompt, extractor)
            if options.mistakes and found != gold:
                print(f"  {prompt!r}\n    found {found}\n    gold  {gold}")
    print(f"{milliseconds_per_prompt(texts, options.pipeline):.2f} ms a prompt (median)")
    if options.pipeline == EMBEDDED:
        print(f"{size_in_bytes(embedded_folder()) / 1e6:.2f} MB on disk")


if __name__ == "__main__":
    main()
