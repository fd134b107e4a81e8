"""The card of an export: a README made from the data, in Markdown."""

from __future__ import annotations

import re

from markupsafe import Markup

from tuner.output.frame import rows_frame
from tuner.output.templates import environment
from tuner.output.wording import Scale, answer, headline, study_value, verdict
from tuner.results.schema import Results


def render_card(results: Results) -> str:
    """Return the card of an exported config.

    Args:
        results: What the study found.

    Returns:
        Markdown with a front matter for the hub.
    """
    rows, scale = rows_frame(results), Scale.of(results)
    base = results.model.id
    return (
        environment(markdown=True)
        .get_template("card.md.j2")
        .render(
            results=results,
            scale=scale,
            study=lambda *keys: study_value(results, *keys),
            hub_id=Markup(base) if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else None,
            headline=headline(results),
            answer=answer(results, rows),
            exported=list(rows[rows.exported].itertuples()),
            report=list(rows[rows.split == "report"].itertuples()),
            difference=lambda one: f"{scale.difference(one)}, {verdict(one)}" if one else "-",
        )
    )
