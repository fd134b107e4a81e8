"""The templates of the output; whatever a study says is escaped unless marked otherwise."""

from __future__ import annotations

import html
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tuner.output import certified, efficiency, wording
from tuner.output.frame import acts_inside, rows_frame
from tuner.results.rows import KINDS, label_of
from tuner.results.schema import Results
from tuner.scoring import metrics


def rendered(template: str, results: Results, **more: Any) -> str:
    """Set what a study found by a template, in HTML or, where its name says so, in Markdown.

    Args:
        template: Its path in this folder.
        results: What the study found.
        **more: What only this template shows.

    Returns:
        The page. Templates see the rows of ``rows_frame`` as ``report`` and ``tune``.
    """
    scale = wording.Scale.of(results)
    rows, searched = rows_frame(results), wording.searched_options(results)
    chosen = next((c for c in results.chosen if c.policy.budget == results.recommended), None)
    return (
        environment(template)
        .get_template(template)
        .render(
            results=results,
            study=results.study,
            scale=scale,
            wording=wording,
            certified=certified,
            efficiency=efficiency,
            pays=efficiency.headline(results),
            measured=lambda policy: efficiency.measured(results, policy),
            promise=certified.promise(results, scale),
            nearest=certified.nearest(results, scale),
            reopened=certified.openings_text(results),
            kinds=KINDS,
            label_of=label_of,
            meaning=metrics.get(results.study["task"]["metric"]).meaning,
            chosen=chosen,
            inside=acts_inside(rows),
            report=list(rows[rows.split == "report"].itertuples()),
            tune=list(rows[rows.split == "tune"].itertuples()),
            policy_text=lambda policy: wording.policy_text(policy, searched),
            **more,
        )
    )


def environment(template: str) -> Environment:
    """Return what sets a template: all it is given is escaped, for HTML or for Markdown."""
    markdown = template.endswith(".md.j2")
    made = Environment(
        loader=PackageLoader("tuner.output", ""),
        autoescape=not markdown,
        finalize=_markdown if markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return made


def _markdown(value: Any) -> str:
    """Escape what a Markdown template writes, unless it is Markup already."""
    if isinstance(value, Markup):
        return value
    plain = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", plain)
