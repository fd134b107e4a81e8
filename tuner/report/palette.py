"""One colour and marker a method, the same in every figure and table; safe for colour blindness.

Colours are those of Okabe and Ito, "Color universal design" (2008), with greys for what is no
pruning method; markers differ as well, so that nothing rests on colour alone.
"""

from __future__ import annotations

INK = "#1f2933"
FAINT = "#c3ccd6"
GRID = "#e6eaef"

METHOD_COLORS = {
    "unpruned": "#333333",
    "random": "#8a8a8a",
    "relevance-only": "#56b4e9",
    "alpha-0": "#a07f00",
    "paper-default": "#d55e00",
    "tuned": "#0072b2",
    "adaptive": "#009e73",
    "group": "#cc79a7",
    "oracle": "#e69f00",
}
METHOD_SYMBOLS = {
    "unpruned": "star",
    "random": "x",
    "relevance-only": "triangle-down",
    "alpha-0": "triangle-up",
    "paper-default": "square",
    "tuned": "circle",
    "adaptive": "diamond",
    "group": "hexagon",
    "oracle": "cross",
}
# seed strategies are variants of the tuned method: blues, told apart by dash and marker
SERIES = (
    ("#0072b2", "solid", "circle"),
    ("#56b4e9", "dash", "square"),
    ("#332288", "dot", "diamond"),
    ("#6b7f99", "dashdot", "triangle-up"),
    ("#117799", "longdash", "x"),
)
