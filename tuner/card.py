"""The card of an export: a README made from the data, in Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from resprune.config import PruningConfig
from tuner.results import Interval, Results
from tuner.wording import (
    METRICS,
    Scale,
    alpha_text,
    answer,
    deployed,
    duration,
    headline,
    share,
    study_name,
    study_value,
    verdict,
)

_LIMITATIONS = (
    "Tuned for one model, one task and one prompt style. On another model, task or prompt the "
    "best settings may differ, and the scores above say nothing about it: run a study there.",
    "Pruning saves time in the language model's prefill. It does not make the vision encoder "
    "or the decoding of each new token faster.",
    "What is dropped is dropped before the question is answered. Questions about everything in "
    "the image (counting, small print) can lose more than questions about one thing.",
    "The intervals cover the choice of images. They do not cover another training seed of the "
    "model, or another task.",
)


def render_card(results: Results, config: PruningConfig) -> str:
    """Return the card of an exported config.

    Args:
        results: What the study found.
        config: The config that is exported.

    Returns:
        Markdown with a front matter for the hub.
    """
    scale = Scale.of(results)
    sections = [
        _front(results),
        f"# Pruning config for {_text(results.model.id)}\n",
        f"**{headline(results)}**\n",
        *(f"{line}\n" for line in answer(results)),
        _use(config),
        _configs(results, config, scale),
        _scores(results, scale),
        _adaptive(results, scale),
        _made(results),
        "## Limitations\n\n" + "\n".join(f"- {line}" for line in _LIMITATIONS) + "\n",
        _licence(results),
    ]
    return "\n".join(section for section in sections if section)


def _front(results: Results) -> str:
    base = results.model.id
    lines = ["---", "license: apache-2.0", "library_name: resprune-tune"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        lines.append(f"base_model: {base}")
    return "\n".join([*lines, "tags: [resprune, visual-token-pruning]", "---", ""])


def _use(config: PruningConfig) -> str:
    default = config.default_budget
    return (
        "## Use\n\n"
        "This folder is given to a model that is loaded as always; it holds no weights and no "
        "code.\n\n"
        "```python\n"
        "from resprune import PruningConfig, attach\n"
        'config = PruningConfig.from_pretrained("THIS_FOLDER")\n'
        "with attach(model, processor, config):\n"
        "    output = model.generate(**inputs, max_new_tokens=20)"
        f"  # budget={default} by default\n"
        "```\n"
    )


def _configs(results: Results, config: PruningConfig, scale: Scale) -> str:
    listed = {entry.budget for entry in config.budgets}
    total = results.model.visual_tokens
    rows = []
    for one in deployed(results):
        if one.chosen.deployed_budget not in listed:
            continue
        kept = str(one.chosen.deployed_budget)
        if one.chosen.ratio is not None:
            kept += f" of each image ({one.chosen.budget} on average)"
        if total:
            kept += f" of {total} ({share(one.chosen.budget, total)})"
        if one.recommended:
            kept += ", **recommended**"
        row = one.row
        rows.append(
            [
                kept,
                alpha_text(one.chosen.alpha),
                _code(one.chosen.seed_strategy),
                scale.interval(row.score) if row else "not scored",
                _difference(row.versus_unpruned if row else None, scale),
                _difference(row.versus_paper if row else None, scale),
            ]
        )
    head = ["tokens kept", "alpha", "seed strategy", "score", "against all tokens"]
    return (
        "## What is in it\n\nScores are of the report split, with 95 % intervals.\n\n"
        + _table([*head, "against the paper's default"], rows)
        + "\nPick a row at run time: `model.generate(..., budget=N)`.\n"
    )


def _scores(results: Results, scale: Scale) -> str:
    rows = [
        [
            _text(row.label),
            "all" if row.budget is None else str(row.budget),
            _text(alpha_text(row.alpha)),
            _code(row.seed_strategy) if row.seed_strategy else "-",
            scale.interval(row.score),
        ]
        for row in sorted(results.report, key=lambda r: -(r.budget or 10**9))
    ]
    if not rows:
        return ""
    head = ["setting", "tokens", "alpha", "seed strategy", "score"]
    return "## Everything that was scored on the report split\n\n" + _table(head, rows)


def _adaptive(results: Results, scale: Scale) -> str:
    if not results.adaptive:
        return ""
    rows = [
        [
            str(row.budget),
            f"{scale.interval(row.best_fixed)} at {alpha_text(row.best_fixed_alpha)}",
            scale.interval(row.adaptive),
            _difference(row.adaptive_minus_fixed, scale),
        ]
        for row in sorted(results.adaptive, key=lambda r: -r.budget)
    ]
    head = ["tokens", "best fixed alpha", "adaptive alpha", "difference"]
    return (
        "## Adaptive alpha\n\nAlpha chosen for each prompt, against the best single alpha, on the "
        "report split.\n\n" + _table(head, rows)
    )


def _made(results: Results) -> str:
    model, spent, nouns = results.model, results.cost, results.noun_pipeline
    fixed = f", {model.visual_tokens} visual tokens per image" if model.visual_tokens else ""
    purpose = {
        "tune": "chose alpha, seed strategy and the other settings",
        "fit": "taught the alpha predictor",
        "report": "scored once, at the end",
    }
    objective = study_value(results, "study", "objective", "kind")
    metric = study_value(results, "task", "metric")
    lines = [
        f"Study: {_text(study_name(results))}, objective {_text(objective)}, seed "
        f"{_text(study_value(results, 'study', 'seed'))}, {spent.trials:,} trials.",
        f"Model: {_text(model.id)}, revision {_text(model.revision or 'none')}, family "
        f"{_text(model.family)}{fixed}.",
        f"Task: {_text(study_value(results, 'task', 'name'))}, metric {_text(metric)}"
        + (f": {METRICS[str(metric)]}." if str(metric) in METRICS else "."),
        *(
            f"{part.capitalize()} split ({purpose[part]}): {_text(split.name)}, "
            f"{split.samples:,} samples on {split.images:,} images."
            for part, split in results.splits.items()
        ),
        f"Noun pipeline: {_text(nouns.name)} {_text(nouns.version)}.",
        f"Cost: {duration(sum(spent.seconds.values()))}; {spent.encoder_calls:,} images "
        f"encoded, {spent.prefills:,} outcomes computed, {spent.memo_hits:,} remembered.",
        "Versions: " + ", ".join(f"{k} {_text(v)}" for k, v in results.environment.items()) + ".",
        *(_text(note) for note in results.notes),
    ]
    listed = "\n".join(f"- {line}" for line in lines)
    return (
        f"## How it was made\n\n{listed}\n\nThe splits have no image in common. Intervals "
        "are 95 % bootstrap intervals over images; differences are paired, that is, measured on "
        "the same samples. A difference whose interval covers zero is called within noise.\n"
    )


def _licence(results: Results) -> str:
    return (
        "## Licence\n\nThis config: Apache-2.0. The model "
        f"({_text(results.model.id)}) and the noun pipeline "
        f"({_text(results.noun_pipeline.name)}) have licences of their own.\n"
    )


def _difference(difference: Interval | None, scale: Scale) -> str:
    if difference is None:
        return "-"
    return f"{scale.difference(difference)}, {verdict(difference)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(value: object) -> str:
    """Escape a text that the study or model gave, for Markdown."""
    plain = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", plain)


def _code(value: str) -> str:
    return f"`{' '.join(value.replace('`', '').replace('|', '').split())}`"
