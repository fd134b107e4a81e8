"""One line a figure: what it shows, computed from the data."""

from __future__ import annotations

from tuner.report.figures import best_point
from tuner.results import ReportRow, Results
from tuner.wording import (
    METHOD_LABELS,
    Scale,
    alpha_text,
    find_row,
    listed,
    recommended,
    share,
    verdict,
)


def pareto(results: Results) -> str:
    """What the recommended budget keeps of the unpruned score, beside random tokens."""
    unpruned = find_row(results.report, "unpruned", None)
    one = recommended(results)
    if unpruned is None or one is None or one.row is None or unpruned.score.mean <= 0:
        return "How the score falls as fewer visual tokens are kept."
    budget = one.chosen.budget
    kept = share(one.row.score.mean, unpruned.score.mean)
    text = f"At {budget} tokens the recommended config keeps {kept} of the score of all tokens"
    random = find_row(results.report, "random", budget)
    if random is not None:
        text += f"; random tokens keep {share(random.score.mean, unpruned.score.mean)}"
    return text + "."


def alpha_curves(results: Results, scale: Scale, split: str) -> str:
    """Where the best alpha lies at each budget, and how much the seed strategy moves it."""
    curves = [c for c in results.curves if c.split == split]
    budgets = sorted({c.budget for c in curves}, reverse=True)
    places, spreads = [], []
    for budget in budgets:
        best = {c.seed_strategy: best_point(c) for c in curves if c.budget == budget}
        alpha, top = max(best.values(), key=lambda point: point[1])
        places.append(f"{alpha_text(alpha)} at {budget} tokens")
        spreads.append(top - min(score for _, score in best.values()))
    text = f"The best single alpha is {listed(places)}."
    if len({c.seed_strategy for c in curves}) > 1:
        unit = " points" if scale.percent else ""
        text += f" The seed strategy moves the best score by {scale.number(max(spreads))}{unit} "
        text += "at most."
    return text


def importances(results: Results) -> str:
    """Which setting matters most, and which least."""
    names = sorted(results.importances, key=lambda name: -results.importances[name])
    if len(names) < 2:
        return "How much each setting explains of the differences between trials."
    first, last = (
        f"{name.replace('_', ' ')} ({share(results.importances[name], 1)})"
        for name in (names[0], names[-1])
    )
    return f"What matters most is {first}; what matters least is {last}."


def adaptive(results: Results, scale: Scale) -> str:
    """At which budgets an alpha chosen for each prompt beats the best single one."""
    said: dict[str, list[str]] = {"better": [], "worse": [], "within noise": []}
    for row in results.adaptive:
        gain = row.adaptive_minus_fixed
        said[verdict(gain)].append(f"{row.budget} tokens ({scale.signed(gain.mean)})")
    parts = []
    if said["better"]:
        parts.append(f"gains at {listed(said['better'])}")
    if said["worse"]:
        parts.append(f"loses at {listed(said['worse'])}")
    if said["within noise"]:
        parts.append(f"makes no sure difference at {listed(said['within noise'])}")
    return f"Choosing alpha for each prompt {'; it '.join(parts)}."


def histogram(results: Results) -> str:
    """How varied the chosen alphas are, by budget."""
    parts = []
    for row in results.adaptive:
        total = sum(row.alpha_histogram.values())
        if total:
            mode = max(row.alpha_histogram, key=lambda name: row.alpha_histogram[name])
            much = share(row.alpha_histogram[mode], total)
            parts.append(f"alpha {alpha_text(float(mode))} for {much} at {row.budget} tokens")
    return f"Chosen most often: {listed(parts)}." if parts else "No alpha was chosen."


def feature_weights(results: Results) -> str:
    """Which features of the prompt the predictor leans on."""
    weights = sorted(results.feature_weights, key=lambda w: -abs(w.weight))
    names = listed(w.name.replace("_", " ") for w in weights[:3])
    return f"The predictor leans most on {names}."


def groups(results: Results, row: ReportRow) -> str:
    """Which group of questions loses most by pruning, and which least."""
    unpruned = find_row(results.report, "unpruned", None)
    scale = Scale.of(results)
    losses = {
        group: interval.mean - unpruned.by_group[group].mean
        for group, interval in row.by_group.items()
        if unpruned is not None and group in unpruned.by_group
    }
    if len(losses) < 2:
        return "The same scores by group of questions."
    most, least = min(losses, key=lambda g: losses[g]), max(losses, key=lambda g: losses[g])
    if scale.signed(losses[most]) == scale.signed(losses[least]):
        return (
            f"Against all tokens, every group changes by the same ({scale.signed(losses[most])})."
        )
    return (
        f"Against all tokens, {most} changes most ({scale.signed(losses[most])}) and {least} "
        f"least ({scale.signed(losses[least])})."
    )


def examples(results: Results) -> str:
    """How many of the drawn examples each setting answers right."""
    right: dict[str, list[bool]] = {}
    for example in results.examples:
        for panel in example.panels:
            same = is_right(panel.prediction, example.answer)
            right.setdefault(panel.label, []).append(same)
    parts = [
        f"{METHOD_LABELS.get(label, label)} {sum(marks)} of {len(marks)}"
        for label, marks in right.items()
    ]
    return (
        f"Right answers in these examples: {'; '.join(parts)}. They illustrate; the tables above "
        "are the measure."
    )


def is_right(prediction: str, answer: str) -> bool:
    """Say whether a prediction reads the same as the answer."""
    return prediction.strip().strip(".").casefold() == answer.strip().strip(".").casefold()


def cost(results: Results) -> str:
    """How much of the work was saved by remembering outcomes."""
    spent = results.cost
    asked = spent.prefills + spent.memo_hits
    encoded = (
        f"{spent.encoder_calls:,} images were encoded, once each"
        if spent.encoder_calls
        else "The images had been encoded by an earlier run"
    )
    return (
        f"{encoded}; of {asked:,} "
        f"outcomes that the study asked for, {share(spent.memo_hits, asked)} were remembered from "
        "an earlier setting that kept the same tokens."
    )
