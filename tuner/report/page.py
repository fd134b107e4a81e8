"""The report page: the answer first, then what it rests on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

from tuner.report import figures, tables, takeaways
from tuner.report.drawing import kept_svg
from tuner.report.figures import Figure
from tuner.report.palette import METHOD_COLORS
from tuner.report.tables import chip, text
from tuner.results import KeptExample, Results
from tuner.wording import (
    METHOD_LABELS,
    METRICS,
    Scale,
    alpha_text,
    answer,
    headline,
    recommended,
    study_name,
    study_value,
)

_WORDS = (
    ("Visual tokens", "the pieces an image is cut into before the language model reads it."),
    ("Tokens kept (budget)", "how many of them the language model gets to see."),
    (
        "Alpha",
        "how much it counts, when tokens are chosen, that a token matches the nouns of the "
        "question. At 0 only the variety of the image counts.",
    ),
    ("Adaptive alpha", "alpha chosen for each question, from its words and the image."),
    ("Seed strategy", "how the first token is chosen; the others follow from it."),
    (
        "Tune, fit and report split",
        "three sets of samples without a common image: one chooses the settings, one teaches "
        "adaptive alpha, and one is scored once, at the end.",
    ),
    (
        "Interval",
        "where the score would lie, 95 times in 100, had other images been drawn. Differences "
        "are measured on the same samples, so their intervals are narrower than those of the "
        "two scores.",
    ),
    (
        "Within noise",
        "the interval of a difference covers zero: these samples do not tell the two apart.",
    ),
)

_FEATURES = 12  # shown, of those the predictor reads


class _Page:
    """Collects figures while the sections are written."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def figure(self, figure: Figure, title: str = "") -> str:
        """Add a figure; return its place on the page."""
        self.figures.append(figure)
        caption = f"<figcaption>{title}</figcaption>" if title else ""
        height = figure["layout"]["height"]
        number = len(self.figures) - 1
        return (
            f'<figure>{caption}<div id="figure-{number}" class="plot" '
            f'style="height:{height}px"></div></figure>'
        )

    def scripts(self) -> str:
        """Return plotly.js, once, and the code that draws every figure."""
        from plotly.offline import get_plotlyjs

        data = json.dumps(self.figures, allow_nan=False)
        for character in "<>&\u2028\u2029":  # so that no text can end the script element
            data = data.replace(character, f"\\u{ord(character):04x}")
        return (
            f"<script>{get_plotlyjs()}</script>\n<script>\n"
            f"const figures = {data};\n"
            "figures.forEach((figure, i) => Plotly.newPlot('figure-' + i, figure.data, "
            "figure.layout, {responsive: true, displayModeBar: false}));\n</script>"
        )


def render_page(results: Results, study_toml: str | None) -> str:
    """Return the report of a study as one HTML page that loads nothing.

    Args:
        results: What the study found.
        study_toml: The study file, shown as it is; None shows the results' own copy.

    Returns:
        The page.
    """
    scale = Scale.of(results)
    page = _Page()
    sections = [
        _answer(results, scale),
        _pareto(page, results, scale),
        _curves(page, results, scale),
        _adaptive(page, results, scale),
        _groups(results, scale),
        _examples(results),
        _importances(page, results),
        _cost(results),
        _made(results, study_toml),
    ]
    style = resources.files("tuner.report").joinpath("report.css").read_text(encoding="utf-8")
    name = text(study_name(results))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}: pruning report</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<main>\n{''.join(sections)}</main>\n{page.scripts()}\n</body>\n</html>\n"
    )


def _section(title: str, takeaway: str, *parts: str) -> str:
    """Return a section; the takeaway is a text, the parts are HTML."""
    lead = f'<p class="takeaway">{text(takeaway)}</p>' if takeaway else ""
    return f"<section>\n<h2>{title}</h2>\n{lead}\n{''.join(parts)}\n</section>\n"


def _multiples(plots: list[str]) -> str:
    """Set small figures side by side: two or three abreast, whatever fills the rows."""
    least = "290px" if len(plots) % 3 == 0 else "420px"
    return f'<div class="multiples" style="--least:{least}">{"".join(plots)}</div>'


def _answer(results: Results, scale: Scale) -> str:
    model = results.model
    task = study_value(results, "task", "name")
    metric = study_value(results, "task", "metric")
    about = [text(model.id)]
    if task:
        about.append(f"task {text(task)}")
    if metric:
        about.append(f"metric {text(str(metric).replace('_', ' '))}")
    lead, *sure = [text(line) for line in answer(results)] or [""]
    meanings = [("Score", f"{METRICS[str(metric)]}.")] if str(metric) in METRICS else []
    words = "".join(f"<dt>{name}</dt><dd>{meaning}</dd>" for name, meaning in [*meanings, *_WORDS])
    why = "".join(f'<p class="note">{text(note)}</p>' for note in results.notes[:1])
    return (
        f'<header><p class="kicker">Pruning report · study {text(study_name(results))} · '
        f"{' · '.join(about)}</p>\n"
        f"<h1>{text(headline(results))}</h1>\n"
        f'<p class="lead">{lead}</p>\n<ul class="sure">'
        f"{''.join(f'<li>{line}</li>' for line in sure)}</ul>\n"
        f"{tables.configs(results, scale)}\n"
        '<p class="note">Scores on the report split, with 95 % intervals. Every row is in '
        "<code>config/pruning_config.json</code>: whoever deploys it picks the budget.</p>"
        f"{why}\n"
        f"<details><summary>What the words mean</summary><dl>{words}</dl></details></header>\n"
    )


def _pareto(page: _Page, results: Results, scale: Scale) -> str:
    names = [
        n
        for n in ("unpruned", "adaptive", "tuned", "paper-default", "random")
        if any(row.name == n for row in results.report)
    ]
    legend = "".join(chip(n, METHOD_LABELS[n]) for n in names)
    legend += '<span class="chip" style="--c:#c3ccd6">Trial, tune split</span>'
    legend += '<span class="chip" style="--c:#9aa9b8">Best trials (the front)</span>'
    return _section(
        "Score against tokens kept",
        takeaways.pareto(results),
        f'<p class="legend">{legend}</p>',
        page.figure(figures.pareto(results, scale)),
        '<p class="note">Coloured marks: the report split, with 95 % intervals; settings with '
        "the same budget stand side by side. Grey dots: trials, on the smaller tune split, which "
        "chose among them and so flatters the best.</p>",
        "<details><summary>Every setting on the report split</summary>"
        f"{tables.scores(results, scale)}</details>"
        "<details><summary>Scores on the tune split</summary>"
        f"{tables.tune_scores(results, scale)}</details>",
    )


def _curves(page: _Page, results: Results, scale: Scale) -> str:
    if not results.curves:
        return ""
    parts = []
    splits = list(dict.fromkeys(c.split for c in results.curves))
    for split in splits:
        here = [c for c in results.curves if c.split == split]
        strategies = dict.fromkeys(c.seed_strategy for c in here)
        legend = "".join(
            f'<span class="chip" style="--c:{figures.series(results, s)[0]}">{text(s)}</span>'
            for s in strategies
        )
        legend += chip("tuned", "line: chosen alpha") + chip("paper-default", "line: paper's alpha")
        budgets = sorted({c.budget for c in here}, reverse=True)
        plots = [
            page.figure(figures.alpha_curves(results, scale, split, b), f"{b} tokens")
            for b in budgets
        ]
        if len(splits) > 1:
            parts.append(f"<h3>On the {text(split)} split</h3>")
        parts.append(
            f'<p class="legend"><b>Seed strategy:</b> {legend}</p>{_multiples(plots)}'
            f'<p class="note">On the {text(split)} split, with one standard error; a '
            "dotted line marks an alpha.</p>"
        )
    return _section(
        "How alpha and the seed strategy matter",
        takeaways.alpha_curves(results, scale, splits[0]),
        *parts,
    )


def _adaptive(page: _Page, results: Results, scale: Scale) -> str:
    if not results.adaptive:
        return ""
    legend = chip("adaptive", "adaptive alpha") + chip("group", "best alpha per question group")
    legend += chip("tuned", "zero: the best fixed alpha")
    rows = sorted(results.adaptive, key=lambda r: -r.budget)
    grid = sorted({alpha for curve in results.curves for alpha in curve.alphas})
    gains = page.figure(figures.adaptive_gains(rows, scale))
    plots = [
        page.figure(figures.alpha_histogram(row, grid), f"{row.budget} tokens") for row in rows
    ]
    parts = [
        f'<p class="legend">{legend}</p>',
        gains,
        tables.adaptive(results, scale),
        '<p class="note">Best per question group knows the kind of question, which a user\'s '
        "prompt does not say. Best per question knows the right answer: no predictor can reach "
        "it, and part of it is luck. Trust: how far the predictor departs from the best fixed "
        "alpha, from 0 (not at all) to 1, chosen by cross-validation on the fit split.</p>",
        f"<h3>Which alphas were chosen</h3><p>{text(takeaways.histogram(results))}</p>",
        _multiples(plots),
        '<p class="note">Share of the report split\'s questions; blue: the best fixed alpha.</p>',
    ]
    weights = sorted(results.feature_weights, key=lambda w: -w.weight)
    total = sum(w.weight for w in weights)
    if total > 0:
        shares = {w.name: 100 * w.weight / total for w in weights[:_FEATURES] if w.weight > 0}
        parts += [
            f"<h3>What it looks at</h3><p>{text(takeaways.feature_weights(results))}</p>",
            page.figure(figures.feature_weights(shares)),
            '<p class="note">How far the predicted scores move when one feature of the prompt is '
            "swapped between prompts, as a share of all features together.</p>",
            _features(shares),
        ]
    return _section("Alpha for each prompt", takeaways.adaptive(results, scale), *parts)


def _features(names: Iterable[str]) -> str:
    """What the features mean, where the library knows them."""
    from resprune.alpha import FEATURES

    known = "".join(
        f"<dt>{text(name.replace('_', ' '))}</dt><dd>{text(FEATURES[name])}</dd>"
        for name in names
        if name in FEATURES
    )
    if not known:
        return ""
    return (
        "<details><summary>What the features are, and why each is looked at</summary>"
        f'<p class="note">The map is how well each visual token matches the nouns.</p>'
        f"<dl>{known}</dl></details>"
    )


def _groups(results: Results, scale: Scale) -> str:
    one = recommended(results)
    budgets = sorted({r.budget for r in results.report if r.budget and r.by_group}, reverse=True)
    if not results.groups or not budgets:
        return ""
    first = one.chosen.budget if one and one.chosen.budget in budgets else budgets[0]
    others = "".join(
        f"<details><summary>The same at {budget} tokens</summary>"
        f"{tables.groups(results, scale, budget)}</details>"
        for budget in budgets
        if budget != first
    )
    takeaway = takeaways.groups(results, one.row) if one and one.row else ""
    return _section(
        "By kind of question",
        takeaway,
        f"<h3>{first} tokens</h3>{tables.groups(results, scale, first)}",
        '<p class="note">Report split, with 95 % intervals; the darker a cell, the lower the '
        "score.</p>",
        others,
    )


def _examples(results: Results) -> str:
    if not results.examples:
        return ""
    cards = "".join(_example(example) for example in results.examples)
    return _section(
        "What was kept",
        takeaways.examples(results),
        '<p class="note">Outlined: tokens that were kept. Faded: tokens that were dropped.</p>',
        f'<div class="cards">{cards}</div>',
    )


def _example(example: KeptExample) -> str:
    whole = kept_svg(example.image_png_base64, None, "the image", METHOD_COLORS["unpruned"])
    panels = [f"<figure>{whole}<figcaption>the image</figcaption></figure>"]
    for panel in example.panels:
        name = panel.label if panel.label in METHOD_COLORS else "tuned"
        boxes = panel.boxes
        label = text(f"tokens kept: {panel.label}")
        right = takeaways.is_right(panel.prediction, example.answer)
        mark = '<span class="right">right</span>' if right else '<span class="wrong">wrong</span>'
        drawn = kept_svg(example.image_png_base64, boxes, label, METHOD_COLORS[name])
        said = METHOD_LABELS.get(panel.label, panel.label)
        panels.append(
            f"<figure>{drawn}<figcaption>{chip(name, said)}<br>"
            f"{panel.budget} tokens, alpha {alpha_text(panel.alpha)}<br>"
            f"answers “{text(panel.prediction)}” {mark}</figcaption></figure>"
        )
    nouns = ", ".join(text(noun) for noun in example.nouns) or "none"
    return (
        f"<article><h3>{text(example.question)}</h3><p>Answer: <b>{text(example.answer)}</b> · "
        f'nouns: {nouns}</p><div class="panels">{"".join(panels)}</div></article>'
    )


def _importances(page: _Page, results: Results) -> str:
    if not results.importances:
        return ""
    return _section(
        "Which settings matter",
        takeaways.importances(results),
        page.figure(figures.importances(results.importances)),
        '<p class="note">Share of the variance of the score over the search space that each '
        "setting explains (functional ANOVA of the trials).</p>",
    )


def _cost(results: Results) -> str:
    spent = results.cost
    counts: list[tuple[str, Any]] = [
        ("trials", f"{spent.trials:,}"),
        ("images through the vision encoder", f"{spent.encoder_calls:,}"),
        ("outcomes computed by the language model", f"{spent.prefills:,}"),
        ("outcomes remembered", f"{spent.memo_hits:,}"),
    ]
    return _section(
        "What it cost", takeaways.cost(results), tables.cost(results), tables.pairs(counts)
    )


def _made(results: Results, study_toml: str | None) -> str:
    model, nouns = results.model, results.noun_pipeline
    facts: list[tuple[str, Any]] = [
        ("model", f"{model.id}, family {model.family}, revision {model.revision or 'none'}"),
        ("visual tokens per image", model.visual_tokens or "varies"),
        ("noun pipeline", f"{nouns.name} {nouns.version}"),
        ("seed", study_value(results, "study", "seed")),
    ]
    for part, split in results.splits.items():
        facts.append(
            (f"{part} split", f"{split.name}: {split.samples:,} samples, {split.images:,} images")
        )
    facts += list(results.environment.items())
    notes = "".join(f"<li>{text(note)}</li>" for note in results.notes[1:])
    shown = study_toml or json.dumps(results.study, indent=2, ensure_ascii=False)
    return _section(
        "How this was made",
        "",
        tables.pairs(facts),
        f"<ul>{notes}</ul>" if notes else "",
        f"<details><summary>The study</summary><pre>{text(shown)}</pre></details>",
    )
