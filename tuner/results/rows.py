"""What a row of the results is: one table for names, labels, colours, symbols and order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RowKind = Literal[
    "unpruned", "random", "relevance-only", "alpha-0", "paper-default", "rival", "tuned", "adaptive"
]


@dataclass(frozen=True)
class Kind:
    """How one kind of row is shown.

    Attributes:
        label: Its name in tables and figures; a rival is called by its method.
        color: Its colour, as CSS has it.
        symbol: Its plotly symbol.
    """

    label: str
    color: str
    symbol: str


KINDS: dict[RowKind, Kind] = {
    "unpruned": Kind("All tokens", "#333333", "star"),
    "random": Kind("Random tokens", "#8a8a8a", "x"),
    "relevance-only": Kind("Relevance only", "#56b4e9", "triangle-down"),
    "alpha-0": Kind("Alpha 0", "#a07f00", "triangle-up"),
    "paper-default": Kind("Paper's default", "#d55e00", "square"),
    "rival": Kind("Best of another method", "#cc79a7", "cross"),
    "tuned": Kind("Tuned, one setting", "#0072b2", "circle"),
    "adaptive": Kind("Tuned, by prompt", "#009e73", "diamond"),
}
"""From the least to what the study offers: the order of legends. Colours are those of Okabe and
Ito, "Color universal design" (2008), with greys for what is no pruning method; symbols differ too,
so that nothing rests on colour alone."""
