"""Trains the embedded noun pipeline (about 6 minutes on one core).

Run ``OMP_NUM_THREADS=1 python -m studies.nouns.train --ewt UD_English-EWT --atis UD_English-Atis
--out resprune/nouns/resprune_en_nouns-1.0.0``.

The pipeline is a small spaCy part-of-speech tagger: hashed sub-word features, a window encoder,
and a morphologizer that knows only the 17 universal parts of speech. It learns from two treebanks
and from template questions (`studies.nouns.templates`). Fixed steps, no selection: the dev split
is scored once, at the end, and the test split never.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resprune.files import written_beside
from studies.nouns import card
from studies.nouns.templates import questions
from studies.nouns.treebank import Sentence, read_conllu, treebank_file

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.training import Example

VERSION = "1.0.0"
STEPS = 2600
WORDS_PER_STEP = 1000
LEARNING_RATE = 0.002
WARMUP_STEPS = 200
DROPOUT = 0.1
LOWERED = 0.3
TEMPLATE_QUESTIONS = 6000

TOK2VEC = {
    "model": {
        "@architectures": "spacy.Tok2Vec.v2",
        "embed": {
            "@architectures": "spacy.MultiHashEmbed.v2",
            "width": 96,
            "attrs": ["NORM", "PREFIX", "SUFFIX", "SHAPE"],
            "rows": [3000, 300, 1500, 300],
            "include_static_vectors": False,
        },
        "encode": {
            "@architectures": "spacy.MaxoutWindowEncoder.v2",
            "width": 96,
            "depth": 3,
            "window_size": 1,
            "maxout_pieces": 3,
        },
    }
}
MORPHOLOGIZER = {
    "model": {
        "@architectures": "spacy.Tagger.v2",
        "nO": None,
        "normalize": False,
        "tok2vec": {"@architectures": "spacy.Tok2VecListener.v1", "width": 96, "upstream": "*"},
    }
}


def corpus(ewt: Path, atis: Path, seed: int) -> list[Sentence]:
    """The training sentences: both treebanks, template questions, and bare lower-cased copies.

    Users type questions without capitals and question mark, which treebanks never do: every
    question of a treebank, an eighth of the other sentences and a third of the template questions
    are there a second time in lower case without the final punctuation.
    """
    rng = random.Random(seed)
    treebank = read_conllu(treebank_file(ewt, "train")) + read_conllu(treebank_file(atis, "train"))
    written = questions(TEMPLATE_QUESTIONS, seed)
    sentences = treebank + written
    for sentence in treebank:
        if sentence.words[-1] == "?" or rng.random() < 1 / 8:
            sentences.append(sentence.lowered().without_final_punctuation())
    for sentence in written:
        if rng.random() < 1 / 3:
            sentences.append(sentence.lowered().without_final_punctuation())
    return [sentence for sentence in sentences if sentence.words]


def example(nlp: Language, sentence: Sentence) -> Example:
    """The sentence as spaCy's tokenizer cuts it, beside its gold tags."""
    from spacy.tokens import Doc
    from spacy.training import Example

    gold = Doc(
        nlp.vocab,
        words=list(sentence.words),
        spaces=list(sentence.spaces),
        pos=list(sentence.tags),
    )
    return Example(nlp.make_doc(gold.text), gold)


def batches(sentences: list[Sentence], seed: int) -> Iterator[list[Sentence]]:
    """Endless batches of about ``WORDS_PER_STEP`` words, reshuffled every pass."""
    rng = random.Random(seed)
    batch: list[Sentence] = []
    words = 0
    while True:
        for at in rng.sample(range(len(sentences)), len(sentences)):
            sentence = sentences[at]
            batch.append(sentence.lowered() if rng.random() < LOWERED else sentence)
            words += len(sentence.words)
            if words >= WORDS_PER_STEP:
                yield batch
                batch, words = [], 0


def train(sentences: list[Sentence], steps: int, seed: int) -> Language:
    """Trains a pipeline for ``steps`` updates and returns it with averaged weights."""
    import spacy
    from thinc.api import Adam, fix_random_seed, warmup_linear

    fix_random_seed(seed)
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config=TOK2VEC)
    nlp.add_pipe("morphologizer", config=MORPHOLOGIZER)
    sample = [example(nlp, sentence) for sentence in sentences]
    nlp.initialize(lambda: sample)
    rates: Any = warmup_linear(LEARNING_RATE, WARMUP_STEPS, steps)
    optimizer = Adam(
        rates,
        L2=0.01,
        L2_is_weight_decay=True,
        grad_clip=1.0,
        use_averages=True,
    )
    started = time.monotonic()
    losses: dict[str, float] = {}
    for step, batch in zip(range(1, steps + 1), batches(sentences, seed), strict=False):
        nlp.update(
            [example(nlp, sentence) for sentence in batch],
            drop=DROPOUT,
            sgd=optimizer,
            losses=losses,
        )
        optimizer.step_schedules()
        if step % 100 == 0 or step == steps:
            print(
                f"step {step}/{steps}  loss {losses['morphologizer'] / 100:.1f}  "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
            losses = {}
    components: list[Any] = [component for _, component in nlp.pipeline]
    for component in components:
        for node in component.model.walk():
            for name in node.param_names:
                average = optimizer.averages.get((node.id, name))
                if average is not None:
                    node.set_param(name, average)
    return nlp


def save(nlp: Language, ewt: Path, out: Path, settings: dict[str, object]) -> None:
    """Writes the pipeline with licence and attribution to the new folder ``out``, all or nothing.

    The string store is pruned to the labels: a tagger hashes the words it reads and looks none up.
    """
    from spacy.vocab import Vocab

    nlp.meta.update(card.meta(VERSION, settings))
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(out) as draft:
        nlp.to_disk(draft, exclude=["vocab"])
        morphologizer: Any = nlp.get_pipe("morphologizer")
        Vocab(strings=morphologizer.labels).to_disk(draft / "vocab")
        shutil.copyfile(ewt / "LICENSE.txt", draft / "LICENSE")
        (draft / "README.md").write_text(card.readme(VERSION, settings), encoding="utf-8")


def main() -> None:
    """Runs the recipe from the command line."""
    parser = argparse.ArgumentParser(description="Train the embedded noun pipeline.")
    parser.add_argument("--ewt", type=Path, required=True, help="folder of UD_English-EWT")
    parser.add_argument("--atis", type=Path, required=True, help="folder of UD_English-Atis")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the pipeline")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out {options.out} is not empty; name a new folder or remove it first")
    sentences = corpus(options.ewt, options.atis, options.seed)
    print(f"{len(sentences)} sentences, {sum(len(s.words) for s in sentences)} words", flush=True)
    nlp = train(sentences, options.steps, options.seed)
    save(nlp, options.ewt, options.out, {"steps": options.steps, "seed": options.seed})
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
