"""Figures on a page: each gets a place, and the script of ``plots.html.j2`` draws them all."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

Figure = dict[str, Any]


class Plots:
    """The figures of one page.

    Attributes:
        drawn: What the script is given, in order.
    """

    def __init__(self) -> None:
        self.drawn: list[Figure] = []

    def __call__(self, what: Figure, caption: str = "") -> Markup:
        """Give a figure its place on the page."""
        self.drawn.append(what)
        title = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
        return Markup(
            '<figure>{}<div id="figure-{}" class="plot" style="height:{}px"></div></figure>'
        ).format(title, len(self.drawn) - 1, what["layout"]["height"])

    def script(self) -> dict[str, Any]:
        """Return what a page with figures is given: ``figure``, ``drawn`` and plotly itself."""
        from plotly.offline import get_plotlyjs

        return {"figure": self, "drawn": self.drawn, "plotly": Markup(get_plotlyjs())}
