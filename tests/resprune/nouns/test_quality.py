"""Quality, speed and size of the embedded pipeline; see docs/log.md for the dated figures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resprune.nouns import EMBEDDED, NounExtractor
from studies.nouns import evaluate
from studies.nouns.treebank import read_conllu, treebank_file

HERE = Path(__file__).parent


def test_hand_written_prompts() -> None:
    prompts = evaluate.read_prompts(HERE / "prompts.jsonl")
    assert len(prompts) >= 120
    assert evaluate.prompt_score(prompts, NounExtractor(EMBEDDED)).f1 >= 0.96


def test_gold_nouns_stand_in_their_prompts_in_order() -> None:
    for prompt, nouns in evaluate.read_prompts(HERE / "prompts.jsonl"):
        at = 0
        for noun in nouns:
            at = prompt.index(noun, at) + len(noun)


@pytest.mark.skipif(
    "RESPRUNE_EWT" not in os.environ,
    reason="set RESPRUNE_EWT to a folder of UD_English-EWT to measure noun F1 on its test split",
)
def test_ewt_test_split() -> None:
    folder = Path(os.environ["RESPRUNE_EWT"])
    sentences = read_conllu(treebank_file(folder, "test"))
    assert evaluate.treebank_score(sentences).f1 >= 0.93
    assert evaluate.gold_words_score(sentences).f1 >= 0.93
