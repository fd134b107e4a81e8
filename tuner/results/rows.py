"""What a row of the results is: one table for names, labels, colours, symbols and order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

RowKind = Literal[
    "unpruned", "random", "baseline", "alpha-0", "paper-default", "rival", "tuned", "adaptive"
]


@dataclass(frozen=True)
class Kind:
    """How one kind of row is shown.

    Attributes:
        label: Its name in tables and figures; empty where it is called by its method.
        name: Its name within a sentence.
        color: Its colour, as CSS has it.
        symbols: Its plotly symbols, one for each method in turn.
    """

    label: str
    name: str
    color: str
    symbols: tuple[str, ...]


KINDS: dict[RowKind, Kind] = {
    "unpruned": Kind("All tokens", "all tokens", "#333333", ("star",)),
    "random": Kind("Random tokens", "random tokens", "#a3a9b0", ("x",)),
    "baseline": Kind(
        "",
        "",
        "#7d868f",
        ("triangle-left", "triangle-right", "triangle-down", "square-cross", "asterisk-open"),
    ),
    "alpha-0": Kind("Alpha 0", "alpha 0", "#94866a", ("triangle-up",)),
    "paper-default": Kind("Paper's default", "the paper's default", "#a8703f", ("square",)),
    "rival": Kind(
        "",
        "",
        "#cc79a7",
        ("cross", "hexagon", "pentagon", "bowtie", "hourglass", "star-square", "hexagram"),
    ),
    "tuned": Kind("Tuned, one setting", "the tuned setting", "#0072b2", ("circle",)),
    "adaptive": Kind("Tuned, by prompt", "the setting by prompt", "#009e73", ("diamond",)),
}
"""From the least to what the study offers: the order of rows and legends. What a study offers has
the colours of Okabe and Ito, "Color universal design" (2008), baselines greys and browns; symbols
differ too, so that nothing rests on colour alone."""

BASELINES: tuple[RowKind, ...] = ("random", "baseline", "alpha-0", "paper-default")
"""Kinds that are measured in every study; the strongest is what is found is held against."""


def label_of(kind: RowKind, method: str, notes: Sequence[str] = ()) -> str:
    """Return what a row is called in tables and figures, with its notes."""
    return _noted(KINDS[kind].label or method, notes)


def name_of(kind: RowKind, method: str, notes: Sequence[str] = ()) -> str:
    """Return what a row is called within a sentence, with its notes."""
    return _noted(KINDS[kind].name or method, notes)


def _noted(name: str, notes: Sequence[str]) -> str:
    return f"{name} ({', '.join(notes)})" if notes else name
