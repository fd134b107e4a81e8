"""Prompt-specificity features: cheap numbers that say whether relevance will help a prompt.

The question type, the answer and the model's output are never features: a user's prompt carries
none of them. Every value is finite and bounded for any prompt.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from resprune.alpha.words import (
    AUXILIARIES,
    COLORS,
    COMPARISON,
    GLOBAL,
    READING,
    SPATIAL,
    WH_WORDS,
)

FEATURES: dict[str, str] = {
    # the words of the prompt
    "noun_count": "Several nouns spread relevance over several places. Capped at 8.",
    "no_nouns": "Without a noun relevance rests on other words, or on nothing.",
    "noun_share": "A prompt made mostly of nouns names things; one made of others describes.",
    "log_words": "A long prompt states context, options or a format: its nouns are diluted.",
    "asks_what": "What-questions ask for a property of something named.",
    "asks_which": "Which-questions choose among alternatives, often all over the image.",
    "asks_who": "Who-questions point at people, whether or not a noun says so.",
    "asks_where": "Where-questions need surroundings, not only the named thing.",
    "asks_when_why": "When and why are answered from the scene as a whole.",
    "asks_how": "How (not how many) asks for a state or manner.",
    "asks_how_many": "Counting must keep every instance: how many, how much, count, number of.",
    "asks_yes_no": "A yes-or-no form checks presence, for which a single peak is enough.",
    "asks_nothing": "No question word: an instruction, such as 'Describe the image.'",
    "adjectives": "Attributes single out what the noun does not name. Capped at 4.",
    "colors": "'The red thing': the colour identifies, and nouns' relevance misses it.",
    "modified_nouns": "Share of nouns right after an attribute: the head alone is not enough.",
    "spatial_words": "Places relative to something need both ends and what is between.",
    "comparisons": "'Most', 'largest', 'same': every candidate has to be seen to compare.",
    "reading_words": "Reading needs a small detail on the named thing kept whole.",
    "global_words": "'Image', 'scene', 'describe': the whole picture is meant.",
    "proper_nouns": "A proper noun names one individual, or text that has to be found.",
    "options": "Option lists ('A.', '(b)', 'or') put nouns in the prompt that are not there.",
    # how common the nouns are, in the model's own terms
    "rank_mean": "Rare words (late in the vocabulary) tend to be specific.",
    "rank_max": "One rare noun is enough to make a prompt specific.",
    "rank_min": "A common noun beside it may be generic and add a flat map.",
    "norm_mean": "Embedding norm grows with training frequency and specificity, by model.",
    "norm_max": "The noun whose embedding stands out most.",
    # what the image answers: the raw cosines before normalisation hides their scale
    "map_missing": "No image at hand (or no noun): the values below are neutral ones.",
    "map_max": "How well the best token matches any noun: is the thing there at all?",
    "map_mean": "The level of the map: a noun akin to everything is generic.",
    "map_gap": "Best minus mean: how far the match stands out.",
    "map_peak": "The same in standard deviations, comparable between models.",
    "map_spread": "Effective share of tokens (exponential of the entropy) under the map.",
    "map_half_share": "Share of tokens above half of the range: the area that is asked about.",
    "map_top_mass": "Share of the map's mass on its best 5 % of tokens.",
    "best_noun_gap": "Best minus mean of the most peaked noun: one specific noun is enough.",
    "worst_noun_gap": "The same of the least peaked noun: a generic noun among them.",
    "last_noun_gap": "The same of the last noun, in English mostly what is asked about.",
    "last_noun_max": "The best match of the last noun.",
    "noun_agreement": "Least correlation between two nouns' maps: one place or several?",
}
"""Every feature in order, with the reason for it."""

FEATURE_NAMES: tuple[str, ...] = tuple(FEATURES)
MAP_FEATURES: tuple[str, ...] = FEATURE_NAMES[FEATURE_NAMES.index("map_max") :]
"""Features that need the image; see `map_missing`."""

_INDEX = {name: i for i, name in enumerate(FEATURE_NAMES)}
_MAX_NOUNS = 16  # bounds the cost on prompts of any length
MAX_WORDS = 256
MAX_CHARS = 4000
_OPTION = re.compile(r"(?:^|[\s(])[A-Ha-h][.):](?=\s|$)")
_WORD = re.compile(r"[\w']+|[^\w\s]")
_PUNCTUATION = frozenset(",.;:!?")


class Tagged(Protocol):
    """A token with its universal part of speech, as `resprune.nouns` gives it."""

    @property
    def text(self) -> str:
        """Surface form."""

    @property
    def pos(self) -> str:
        """Universal part of speech, for example ``NOUN``."""


@dataclass(frozen=True)
class PromptContext:
    """What is known about a prompt before the language model runs.

    Attributes:
        question: The user's question.
        tags: Its tokens with parts of speech.
        nouns: Its nouns in order (L).
        noun_ranks: Rarity of each noun by tokenizer id, 0 (first id) to 1 (last), mean over
            sub-words; (L,) or empty when unknown.
        noun_norms: Norm of each noun's embedding over the mean norm of the embedding table;
            (L,) or empty when unknown.
        cosines: Raw cosines of nouns x visual tokens, (L, T), or None without an image.
    """

    question: str
    tags: Sequence[Tagged] = ()
    nouns: Sequence[str] = ()
    noun_ranks: Sequence[float] = ()
    noun_norms: Sequence[float] = ()
    cosines: npt.NDArray[np.floating] | None = field(default=None, compare=False)


def prompt_features(context: PromptContext) -> npt.NDArray[np.float64]:
    """Measure how specific a prompt is; every feature and its reason is in `FEATURES`.

    Unknown values are neutral: ranks 0.5, norms 1, and for a missing image a flat map (cosines 0,
    spread and half share 1, agreement 1) with ``map_missing`` = 1.

    Args:
        context: The prompt, and the image's cosines where there is an image.

    Returns:
        (F,) in the order of `FEATURE_NAMES`; finite for any input.
    """
    values = {
        **_word_features(context),
        **_rarity_features(context),
        **_map_features(context.cosines),
    }
    features = np.array([values[name] for name in FEATURE_NAMES], dtype=np.float64)
    return np.nan_to_num(features, nan=0.0, posinf=1e3, neginf=-1e3)


def _word_features(context: PromptContext) -> dict[str, float]:
    # words come from the text itself, so that they do not hang on the tagger's tokens
    text = context.question[:MAX_CHARS]
    words = _WORD.findall(text.lower())[:MAX_WORDS]
    tags = context.tags[:MAX_WORDS]
    spoken = [word for word in words if word[:1].isalnum()]
    nouns = len(context.nouns)
    counting = _counts(words)
    kind = "asks_how_many" if counting else _question_kind(words)
    adjectives, modified, heads = 0, 0, 0
    after_attribute = False
    for tag in tags:
        word = tag.text.lower()
        attribute = word in COLORS or (
            tag.pos == "ADJ" and word not in COMPARISON and word not in {"many", "much"}
        )
        if tag.pos in ("NOUN", "PROPN") and word not in COLORS:
            heads += 1
            modified += after_attribute
        adjectives += attribute
        after_attribute = attribute
    reading = sum(word in READING for word in words) - counting * ("number" in words)
    return {
        "noun_count": float(min(nouns, 8)),
        "no_nouns": float(nouns == 0),
        "noun_share": min(1.0, nouns / max(len(spoken), 1)),
        "log_words": math.log1p(len(spoken)),
        **{name: float(name == kind) for name in FEATURE_NAMES if name.startswith("asks_")},
        "adjectives": float(min(adjectives, 4)),
        "colors": float(min(sum(word in COLORS for word in words), 4)),
        "modified_nouns": modified / max(heads, 1),
        "spatial_words": float(min(sum(word in SPATIAL for word in words), 4)),
        "comparisons": float(min(sum(map(_compares, words)), 4)),
        "reading_words": float(min(max(reading, 0), 4)),
        "global_words": float(min(sum(word in GLOBAL for word in words), 4)),
        "proper_nouns": float(min(sum(tag.pos == "PROPN" for tag in tags), 4)),
        "options": float(min(len(_OPTION.findall(text)) + ("or" in words), 8)),
    }


def _compares(word: str) -> bool:
    return word in COMPARISON or (
        len(word) > 5 and word.endswith("est") and word not in {"forest", "harvest", "request"}
    )


def _counts(words: list[str]) -> bool:
    pairs = set(itertools.pairwise(words))
    return (
        bool(pairs & {("how", "many"), ("how", "much"), ("number", "of"), ("amount", "of")})
        or words[:1] == ["count"]
        or ("count", "the") in pairs
    )


def _question_kind(words: list[str]) -> str:
    start = True
    for word in words:
        if word in WH_WORDS:
            return WH_WORDS[word]
        if start and word in AUXILIARIES:
            return "asks_yes_no"
        start = word in _PUNCTUATION
    return "asks_nothing"


def _rarity_features(context: PromptContext) -> dict[str, float]:
    ranks = _known(context.noun_ranks, 0.5, 1.0)
    norms = _known(context.noun_norms, 1.0, 10.0)
    return {
        "rank_mean": sum(ranks) / len(ranks),
        "rank_max": max(ranks),
        "rank_min": min(ranks),
        "norm_mean": sum(norms) / len(norms),
        "norm_max": max(norms),
    }


def _known(values: Sequence[float], neutral: float, most: float) -> list[float]:
    known = [min(max(float(v), 0.0), most) for v in values[:_MAX_NOUNS] if math.isfinite(v)]
    return known or [neutral]


_FLAT = dict.fromkeys(MAP_FEATURES, 0.0) | {
    "map_spread": 1.0,
    "map_half_share": 1.0,
    "map_top_mass": 0.05,
    "noun_agreement": 1.0,
}


def _map_features(cosines: npt.NDArray[np.floating] | None) -> dict[str, float]:
    if cosines is None or cosines.ndim != 2 or 0 in cosines.shape:
        return {"map_missing": 1.0, **_FLAT}
    maps = np.clip(np.nan_to_num(np.asarray(cosines[:_MAX_NOUNS], dtype=np.float64)), -1.0, 1.0)
    best = maps.max(axis=1)
    gaps = best - maps.mean(axis=1)
    pooled = maps.max(axis=0)
    low, high, mean = float(pooled.min()), float(pooled.max()), float(pooled.mean())
    values = {
        "map_missing": 0.0,
        **_FLAT,
        "map_max": high,
        "map_mean": mean,
        "map_gap": high - mean,
        "best_noun_gap": float(gaps.max()),
        "worst_noun_gap": float(gaps.min()),
        "last_noun_gap": float(gaps[-1]),
        "last_noun_max": float(best[-1]),
        "noun_agreement": _agreement(maps),
    }
    if high - low > 1e-6:  # below that the map is flat to rounding: keep the neutral shape
        shape = (pooled - low) / (high - low)
        mass = shape / shape.sum()
        entropy = -float(np.sum(mass * np.log(mass + 1e-12)))
        top = max(1, round(0.05 * mass.size))
        values |= {
            "map_peak": min((high - mean) / (float(pooled.std()) + 1e-6), 30.0),
            "map_spread": math.exp(entropy) / mass.size,
            "map_half_share": float(np.mean(shape > 0.5)),
            "map_top_mass": float(np.partition(mass, -top)[-top:].sum()),
        }
    return values


def _agreement(maps: npt.NDArray[np.float64]) -> float:
    if len(maps) < 2:
        return 1.0
    centred = maps - maps.mean(axis=1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True) + 1e-9
    # einsum: a threaded BLAS call costs more than this product
    return float(np.einsum("it,jt->ij", centred, centred).min())
