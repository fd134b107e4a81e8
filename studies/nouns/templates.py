"""Template questions in the style of visual question answering, written for this project.

The treebanks hold few questions and hardly any that name an object in a picture, so the recipe
adds questions drawn from the small grammar in ``templates.toml``. Tags follow the treebanks'
conventions (existential "is" is a VERB, "front" in "in front of" a NOUN, "How" an ADV). Sense is
not asked of a question: the tagger should lean on the form of a sentence, not on likely answers.
"""

from __future__ import annotations

import random
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from studies.nouns.treebank import Sentence

_COMPOUND_SHARE = 0.12
_NO_SPACE_BEFORE = re.compile(r"^(?:[?.,:)]|'s)$")
_FINAL = {"?": "?_PUNCT", ".": "._PUNCT"}


@dataclass(frozen=True)
class _Grammar:
    nouns: list[str]
    compounds: list[list[str]]
    mass: frozenset[str]
    irregular: dict[str, str]
    slots: dict[str, list[str]]
    templates: list[str]


@cache
def _grammar() -> _Grammar:
    data = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    words = {
        slot: [f"{word}_{entry['tag']}" for word in entry["words"].split()]
        for slot, entry in data["word_slots"].items()
    }
    return _Grammar(
        nouns=sorted(set(data["nouns"].split())),
        compounds=[line.split() for line in data["compounds"].split("\n") if line],
        mass=frozenset(data["mass"].split()),
        irregular=data["irregular_plurals"],
        slots=words | data["slots"],
        templates=data["templates"].strip().split("\n"),
    )


def _plural(noun: str) -> str:
    grammar = _grammar()
    if noun in grammar.mass:
        return noun
    if noun in grammar.irregular:
        return grammar.irregular[noun]
    if re.search(r"(?:s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def _noun(rng: random.Random, plural: bool) -> list[str]:
    words = [rng.choice(_grammar().nouns)]
    if rng.random() < _COMPOUND_SHARE:
        words = list(rng.choice(_grammar().compounds))
    if plural:
        words[-1] = _plural(words[-1])
    return [f"{word}_NOUN" for word in words]


def _letter(rng: random.Random) -> list[str]:
    """An option letter as spaCy cuts it: "A." is one token, "A)" two."""
    letter = rng.choice("ABCDE")
    if rng.random() < 0.2:
        letter = letter.lower()
    shapes = [
        [f"{letter}._X"],
        [f"{letter}._X"],
        [f"{letter}_X", ")_PUNCT"],
        ["(_PUNCT", f"{letter}_X", ")_PUNCT"],
        [f"{letter}_X", ":_PUNCT"],
    ]
    return rng.choice(shapes)


def _expand(template: str, rng: random.Random) -> list[str]:
    words: list[str] = []
    for part in template.split():
        if part in ("<ns>", "<np_pl>"):
            words += _noun(rng, plural=part == "<np_pl>")
        elif part == "<letter>":
            words += _letter(rng)
        elif part.startswith("<"):
            words += _expand(rng.choice(_grammar().slots[part[1:-1]]), rng)
        else:
            words.append(_FINAL.get(part, part))
    return words


def _article(words: list[str]) -> list[str]:
    """Agrees "a" and "an" with the word that follows."""
    agreed = list(words)
    for at, word in enumerate(words[:-1]):
        if word in ("a_DET", "an_DET"):
            agreed[at] = "an_DET" if words[at + 1][0].lower() in "aeiou" else "a_DET"
    return agreed


def question(rng: random.Random) -> Sentence:
    """Draws one tagged question, caption or answer option."""
    template = rng.choice(_grammar().templates)
    pairs = [word.rsplit("_", 1) for word in _article(_expand(template, rng))]
    words = [form for form, _ in pairs]
    if words[0].islower() and len(words[0]) > 1 and rng.random() < 0.7:
        words[0] = words[0].capitalize()
    spaces = [
        not _NO_SPACE_BEFORE.match(following) and word != "("
        for word, following in zip(words, [*words[1:], "."], strict=True)
    ]
    return Sentence(tuple(words), tuple(tag for _, tag in pairs), tuple(spaces))


def questions(count: int, seed: int) -> list[Sentence]:
    """Draws ``count`` questions; the same seed draws the same ones."""
    rng = random.Random(seed)
    return [question(rng) for _ in range(count)]
