"""Questions about a scene, in several wordings each, with the one-word answer.

Half of the kinds name a shape ('What color is the star?'): their noun points at the patches that
matter. The others speak of 'the red thing' or of everything at once, so that their nouns point
nowhere. That contrast is designed in: it is what a prompt-dependent alpha can exploit.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from resprune.errors import ResPruneError
from studies.nano.scenes import COLOR_NAMES, PLURALS, SHAPES, Scene, SceneObject

TEMPLATES: dict[str, tuple[str, ...]] = {
    "color": (
        "What color is the {shape}?",
        "Which color does the {shape} have?",
        "What is the color of the {shape}?",
        "Tell me the color of the {shape}.",
    ),
    "digit": (
        "What digit is on the {shape}?",
        "What number is written on the {shape}?",
        "Which digit does the {shape} show?",
        "What is the number on the {shape}?",
    ),
    "exists": (
        "Is there a {shape}?",
        "Do you see a {shape}?",
        "Can you see a {shape}?",
        "Is there a {shape} in the picture?",
    ),
    "count": (
        "How many {shapes} are there?",
        "How many {shapes} do you see?",
        "What is the number of {shapes}?",
        "Count the {shapes}.",
    ),
    "shape_by_color": (
        "What shape is the {color} object?",
        "Which shape does the {color} thing have?",
        "What is the shape of the {color} object?",
        "Tell me the shape of the {color} thing.",
    ),
    "digit_by_color": (
        "What digit is on the {color} thing?",
        "What number is written on the {color} object?",
        "Which digit does the {color} thing show?",
        "What is the number on the {color} object?",
    ),
    "exists_color": (
        "Is there {a} {color} thing?",
        "Do you see {a} {color} object?",
        "Can you see {a} {color} thing?",
        "Is there {a} {color} object in the picture?",
    ),
    "count_color": (
        "How many {color} things are there?",
        "How many {color} objects do you see?",
        "What is the number of {color} things?",
        "Count the {color} objects.",
    ),
    "most_color": (
        "Which color is the most common?",
        "What color do you see the most?",
        "What is the most common color?",
        "Which color appears most often?",
    ),
    "most_shape": (
        "Which shape is the most common?",
        "What shape do you see the most?",
        "What is the most common shape?",
        "Which shape appears most often?",
    ),
}
KINDS = tuple(TEMPLATES)
WEIGHTS = (1.2, 1.3, 0.8, 1.1, 1.1, 1.2, 0.7, 1.0, 0.7, 0.7)
MAX_QUESTIONS = 16
"""Questions that every scene can be asked without asking the same thing twice."""


@dataclass(frozen=True)
class Question:
    """A question as a user would type it, and its answer in one lower-case word or digit."""

    kind: str
    text: str
    answer: str


def generate_questions(scene: Scene, seed: int, count: int) -> list[Question]:
    """Ask `count` different things about a scene.

    Args:
        scene: what is asked about.
        seed: draws the kinds, subjects and wordings; a larger count extends a smaller one.
        count: how many, 0 to `MAX_QUESTIONS`.

    Raises:
        ResPruneError: count is out of range.
    """
    return ask(scene.objects, random.Random(f"questions-{seed}"), count)


def ask(objects: tuple[SceneObject, ...], rng: random.Random, count: int) -> list[Question]:
    """Like `generate_questions`, for a layout without a picture and a generator at hand."""
    if not 0 <= count <= MAX_QUESTIONS:
        raise ResPruneError(f"count is {count}: a scene is asked 0 to {MAX_QUESTIONS} questions")
    questions: list[Question] = []
    asked: set[tuple[str, str]] = set()
    while len(questions) < count:
        kind = rng.choices(KINDS, WEIGHTS)[0]
        drawn = _DRAW[kind](objects, rng)
        if drawn is None or (kind, drawn[0]) in asked:
            continue
        subject, answer = drawn
        asked.add((kind, subject))
        questions.append(Question(kind, render(rng.choice(TEMPLATES[kind]), subject), answer))
    return questions


def render(template: str, subject: str) -> str:
    """Fill a wording in with its shape or colour (which is ignored where none is named)."""
    return template.format(
        shape=subject,
        shapes=PLURALS.get(subject, subject),
        color=subject,
        a="an" if subject[:1] in "aeiou" and subject else "a",
    )


_Drawn = tuple[str, str] | None
_Draw = Callable[[tuple[SceneObject, ...], random.Random], _Drawn]


def _named(attribute: str, o: SceneObject) -> str:
    return o.shape if attribute == "shape" else o.color


def _names(attribute: str) -> tuple[str, ...]:
    return SHAPES if attribute == "shape" else COLOR_NAMES


def _counts(attribute: str, objects: tuple[SceneObject, ...]) -> dict[str, int]:
    found = Counter(_named(attribute, o) for o in objects)
    return {name: found[name] for name in _names(attribute)}


def _about_one(attribute: str, answer: Callable[[SceneObject], str | None]) -> _Draw:
    """A property of the only object of its shape or colour."""

    def draw(objects: tuple[SceneObject, ...], rng: random.Random) -> _Drawn:
        counts = _counts(attribute, objects)
        known = [
            (name, value)
            for o in objects
            if counts[name := _named(attribute, o)] == 1 and (value := answer(o)) is not None
        ]
        return rng.choice(known) if known else None

    return draw


def _existence(attribute: str) -> _Draw:
    def draw(objects: tuple[SceneObject, ...], rng: random.Random) -> _Drawn:
        counts = _counts(attribute, objects)
        answer = rng.choice(("yes", "no"))
        return rng.choice([n for n, c in counts.items() if (c > 0) == (answer == "yes")]), answer

    return draw


def _count(attribute: str) -> _Draw:
    """A number from 0 to 4, drawn so that no single answer dominates."""

    def draw(objects: tuple[SceneObject, ...], rng: random.Random) -> _Drawn:
        counts = _counts(attribute, objects)
        wanted = rng.choices(((0,), (1,), (2,), (3, 4)), (0.12, 0.28, 0.28, 0.32))[0]
        names = [n for n, c in counts.items() if c in wanted]
        if not names:
            return None
        name = rng.choice(names)
        return name, str(counts[name])

    return draw


def _most_common(attribute: str) -> _Draw:
    def draw(objects: tuple[SceneObject, ...], rng: random.Random) -> _Drawn:
        ranked = sorted(_counts(attribute, objects).items(), key=lambda item: -item[1])
        (name, most), (_, second) = ranked[0], ranked[1]
        return ("", name) if most > second and most > 1 else None

    return draw


def _digit(o: SceneObject) -> str | None:
    return None if o.digit is None else str(o.digit)


_DRAW: dict[str, _Draw] = {
    "color": _about_one("shape", lambda o: o.color),
    "digit": _about_one("shape", _digit),
    "exists": _existence("shape"),
    "count": _count("shape"),
    "shape_by_color": _about_one("color", lambda o: o.shape),
    "digit_by_color": _about_one("color", _digit),
    "exists_color": _existence("color"),
    "count_color": _count("color"),
    "most_color": _most_common("color"),
    "most_shape": _most_common("shape"),
}
