"""The templates of the output; whatever a study says is escaped unless marked otherwise."""

from __future__ import annotations

import html
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tuner.output.wording import METRICS, duration, share, verdict


def environment(*, markdown: bool = False) -> Environment:
    """Return the environment of the HTML templates, or that of the Markdown ones."""
    found = Environment(
        loader=PackageLoader("tuner.output", ""),
        autoescape=not markdown,
        finalize=_markdown if markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(share=share, duration=duration, verdict=verdict, meanings=METRICS)
    found.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return found


def _markdown(value: Any) -> str:
    """Escape what a Markdown template writes, unless it is Markup already."""
    if isinstance(value, Markup):
        return value
    plain = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", plain)
