"""The card of an export: a README made from the data, in Markdown."""

from __future__ import annotations

import re

from markupsafe import Markup

from tuner.output.templates import rendered
from tuner.results.schema import Results


def render_card(results: Results) -> str:
    """Return the card of an exported config.

    Args:
        results: What the study found.

    Returns:
        Markdown with a front matter for the hub.
    """
    base = results.model.id
    on_the_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", base)
    return rendered("card.md.j2", results, hub_id=Markup(base) if on_the_hub else None)
