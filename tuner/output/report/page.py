"""What the report page says and draws, section by section; `report.html.j2` sets it."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from markupsafe import Markup

from resprune.alpha import FEATURES
from tuner.output.frame import rows_frame
from tuner.output.report import figures
from tuner.output.report.drawing import drawing
from tuner.output.report.figures import Figure
from tuner.output.templates import environment
from tuner.output.wording import (
    Scale,
    answer,
    arms_text,
    headline,
    listed,
    option_word,
    policy_text,
    searched_options,
    share,
    study_value,
    verdict,
)
from tuner.results.rows import KINDS
from tuner.results.schema import AdaptiveRow, KeptExample, Results

_FEATURES = 12  # shown, of those the predictor reads


def render(results: Results, study_toml: str | None = None) -> str:
    """Return the report of a study as one HTML page that loads nothing.

    Args:
        results: What the study found.
        study_toml: The study file, shown as it is; None shows the results' own copy.

    Returns:
        The page.
    """
    from plotly.offline import get_plotlyjs

    scale, rows = Scale.of(results), rows_frame(results)
    drawn: list[Figure] = []

    def figure(what: Figure, caption: str = "") -> Markup:
        """Give a figure its place on the page; it is drawn by the script at the end."""
        drawn.append(what)
        title = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
        return Markup(
            '<figure>{}<div id="figure-{}" class="plot" style="height:{}px"></div></figure>'
        ).format(title, len(drawn) - 1, what["layout"]["height"])

    report = rows[rows.split == "report"]
    shares = _feature_shares(results)
    return (
        environment()
        .get_template("report/report.html.j2")
        .render(
            results=results,
            scale=scale,
            kinds=KINDS,
            study=lambda *keys: study_value(results, *keys),
            study_text=study_toml or json.dumps(results.study, indent=2, ensure_ascii=False),
            headline=headline(results),
            answer=answer(results, rows),
            exported=list(rows[rows.exported].itertuples()),
            report=list(report.itertuples()),
            tune=list(rows[rows.split == "tune"].itertuples()),
            pareto=figures.pareto(results, rows, scale),
            pareto_says=_pareto(report),
            curves=_curves(results, scale),
            adaptive_says=_adaptive(results.adaptive, scale),
            gains=figures.gains(results.adaptive, scale),
            arms=[(f"{row.tokens} tokens", figures.arms(row)) for row in results.adaptive],
            fallbacks=[arms_text(row.policy)[1][row.policy.fallback] for row in results.adaptive],
            group_color=figures.GROUP,
            weights=figures.bars(shares, "adaptive") if shares else None,
            features={option_word(n): FEATURES[n] for n in shares if n in FEATURES},
            groups=_groups(results, report),
            groups_say=_groups_say(report, scale),
            examples=[_example(results, example) for example in results.examples],
            importances=[
                (m, figures.bars(s, "tuned")) for m, s in results.importances.items() if s
            ],
            figure=figure,
            drawn=drawn,
            plotly=Markup(get_plotlyjs()),
        )
    )


def _pareto(report: pd.DataFrame) -> str:
    """What the recommended policy keeps of the score of all tokens, beside random tokens."""
    whole = report[report.kind == "unpruned"]["mean"]
    one = next(report[report.recommended].itertuples(), None)
    if one is None or not len(whole) or whole.iloc[0] <= 0:
        return "How the score falls as fewer visual tokens are kept."
    said = f"At {one.tokens} tokens the recommended policy keeps "
    said += f"{share(one.mean, whole.iloc[0])} of the score of all tokens"
    for mean in report[(report.kind == "random") & (report.budget == one.budget)]["mean"]:
        said += f"; random tokens keep {share(mean, whole.iloc[0])}"
    return f"{said}."


def _curves(results: Results, scale: Scale) -> list[dict[str, Any]]:
    """One block for each option and split: its best values, and its figures."""
    found = []
    for option, split in dict.fromkeys((c.option, c.split) for c in results.curves):
        best: dict[int, tuple[float, float]] = {}
        for curve in (c for c in results.curves if (c.option, c.split) == (option, split)):
            point = max(zip(curve.scores, curve.values, strict=True), key=lambda p: p[0])
            best[curve.tokens] = max(best.get(curve.tokens, point), point, key=lambda p: p[0])
        places = listed(f"{best[n][1]:g} at {n} tokens" for n in sorted(best, reverse=True))
        says = f"The best {option_word(option)} is {places}."
        plots = figures.curves(results, scale, option, split)
        found.append({"option": option, "split": split, "says": says, "plots": plots})
    return found


def _adaptive(rows: list[AdaptiveRow], scale: Scale) -> str:
    """At which budgets choosing by prompt beats the best fixed arm."""
    said: dict[str, list[str]] = {}
    for row in rows:
        gain = row.adaptive_minus_fixed
        said.setdefault(verdict(gain), []).append(
            f"{row.tokens} tokens ({scale.signed(gain.mean)})"
        )
    verbs = {"better": "gains", "worse": "loses", "within noise": "makes no sure difference"}
    parts = [f"{verb} at {listed(said[word])}" for word, verb in verbs.items() if word in said]
    return f"Choosing for each prompt {'; it '.join(parts)}."


def _feature_shares(results: Results) -> dict[str, float]:
    """The features that move the predictor most, as shares of all."""
    total = sum(w.weight for w in results.feature_weights)
    ranked = sorted(results.feature_weights, key=lambda w: -w.weight)[:_FEATURES]
    return {w.name: w.weight / total for w in ranked if w.weight > 0}


def _groups(results: Results, report: pd.DataFrame) -> list[tuple[str, list[Any]]]:
    """For each budget, the recommended one first, how much is kept and the rows with groups."""
    shown = report[report.by_group.astype(bool)]
    pruned = shown[shown.kind != "unpruned"]
    if not results.groups:
        return []
    first = str(results.recommended)
    budgets = sorted(pruned.budget.unique(), key=lambda budget: budget != first)
    return [
        (here.kept.iloc[0], list(pd.concat([shown[shown.kind == "unpruned"], here]).itertuples()))
        for here in (pruned[pruned.budget == budget] for budget in budgets)
    ]


def _groups_say(report: pd.DataFrame, scale: Scale) -> str:
    """Which kind of question loses most by pruning, and which least."""
    one = next(report[report.recommended].itertuples(), None)
    whole = next(report[report.kind == "unpruned"].itertuples(), None)
    if one is None or whole is None or len(whole.by_group.keys() & one.by_group.keys()) < 2:
        return "The same scores by kind of question."
    losses = {
        group: interval.mean - whole.by_group[group].mean
        for group, interval in one.by_group.items()
        if group in whole.by_group
    }
    most, least = min(losses, key=lambda g: losses[g]), max(losses, key=lambda g: losses[g])
    if scale.signed(losses[most]) == scale.signed(losses[least]):
        return f"Against all tokens, every kind changes by the same ({scale.signed(losses[most])})."
    return (
        f"Against all tokens, {most} changes most ({scale.signed(losses[most])}) and {least} "
        f"least ({scale.signed(losses[least])})."
    )


def _example(results: Results, example: KeptExample) -> dict[str, Any]:
    searched = searched_options(results)
    panels = [
        {
            "color": KINDS[panel.kind].color,
            "label": panel.setting.method if panel.kind == "rival" else KINDS[panel.kind].label,
            "setting": f"{len(panel.kept)} tokens, {policy_text(panel.setting, searched)}",
            "prediction": panel.prediction,
            "right": _is_right(panel.prediction, example.answer),
            "drawing": drawing(example.image_png_base64, panel.boxes),
        }
        for panel in example.panels
    ]
    texts = example.model_dump(include={"question", "answer", "nouns"})
    return texts | {"whole": drawing(example.image_png_base64, []), "panels": panels}


def _is_right(prediction: str, answer: str) -> bool:
    return prediction.strip().strip(".").casefold() == answer.strip().strip(".").casefold()
