"""What is said of the report split: every setting scored once, differences paired by image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tuner.alpha_fit import AlphaFit
from tuner.compare import paired_bootstrap
from tuner.evaluate import Engine, Floats, Kept, Setting
from tuner.results import AdaptiveRow, Interval, KeptExample, KeptPanel, ReportRow

RowName = Literal[
    "unpruned", "random", "paper-default", "tuned", "adaptive", "relevance-only", "alpha-0"
]
RANDOM_DRAWS = 2
_MAX_SIDE = 448  # pixels of an example's picture


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals over the images of one split.

    Attributes:
        images: Image of each sample.
        groups: Question type of each sample.
        seed: Draws the resamples.
        resamples: How many.
    """

    images: Sequence[str]
    groups: Sequence[str]
    seed: int
    resamples: int

    def of(self, a: Floats, b: Floats | None = None) -> Interval:
        """Return the mean of ``a``, or of ``a - b``, with its interval."""
        return paired_bootstrap(a, b, self.images, seed=self.seed, resamples=self.resamples)

    def by_group(self, a: Floats) -> dict[str, Interval]:
        """Return the mean of each group with its interval."""
        found = {}
        images, groups = np.array(self.images), np.array(self.groups)
        for group in sorted(set(self.groups)):
            rows = groups == group
            found[group] = paired_bootstrap(
                a[rows], None, images[rows], seed=self.seed, resamples=self.resamples
            )
        return found


@dataclass(frozen=True)
class Proven:
    """One setting to score on the report split.

    Attributes:
        name: Kind of row.
        label: What the report calls it.
        budget: Tokens kept, None for unpruned.
        alpha: Alpha, ``adaptive``, or None.
        seed_strategy: Seed strategy, or None.
        scores: Scores, shape (N,).
    """

    name: RowName
    label: str
    budget: int | None
    alpha: float | str | None
    seed_strategy: str | None
    scores: Floats


def random_scores(engine: Engine, budget: int, seed: int) -> Floats:
    """Score random kept sets, the mean of two draws a sample, shape (N,)."""
    draws = [engine.random(budget, seed + draw) for draw in range(RANDOM_DRAWS)]
    mean: Floats = engine.outcomes(draws).mean(axis=0)
    return mean


def adaptive_kept(engine: Engine, setting: Setting, alphas: Floats, budget: int) -> Kept:
    """Return what a setting keeps when every sample has an alpha of its own.

    Args:
        engine: The samples.
        setting: Seed strategy and options.
        alphas: Alpha of each sample, shape (N,).
        budget: Tokens to keep.

    Returns:
        The kept sets.
    """
    grid = sorted(set(alphas.tolist()))
    orders = engine.orders(setting, grid, budget)
    which = np.searchsorted(np.array(grid), alphas)
    return engine.keep(orders[which, np.arange(len(engine))], budget, setting.positions)


def report_rows(proven: Sequence[Proven], intervals: Intervals) -> list[ReportRow]:
    """Turn scores into rows with intervals, paired with unpruned and the paper's default."""
    unpruned = next(row.scores for row in proven if row.name == "unpruned")
    paper = {row.budget: row.scores for row in proven if row.name == "paper-default"}
    rows = []
    for row in proven:
        default = paper.get(row.budget)
        rows.append(
            ReportRow(
                name=row.name,
                label=row.label,
                budget=row.budget,
                alpha=row.alpha,
                seed_strategy=row.seed_strategy,
                score=intervals.of(row.scores),
                versus_unpruned=(
                    None if row.name == "unpruned" else intervals.of(row.scores, unpruned)
                ),
                versus_paper=(
                    None
                    if default is None or row.name == "paper-default"
                    else intervals.of(row.scores, default)
                ),
                by_group=intervals.by_group(row.scores),
            )
        )
    return rows


def adaptive_row(
    budget: int,
    fit: AlphaFit,
    alphas: Sequence[float],
    fit_scores: Floats,
    fit_groups: Sequence[str],
    report_scores: Floats,
    chosen: Floats,
    adaptive: Floats,
    intervals: Intervals,
) -> AdaptiveRow:
    """Compare adaptive alpha with its bounds at one budget.

    The best fixed alpha and the groups' best alphas are chosen on the fit split, which the
    predictor learnt from too, and scored on the report split; the oracle looks at the answers.

    Args:
        budget: Tokens kept.
        fit: The fitted predictor.
        alphas: A alphas.
        fit_scores: Scores on the fit split, shape (A, M).
        fit_groups: Question type of its M samples.
        report_scores: Scores on the report split, shape (A, N).
        chosen: Alpha the predictor chose for each report sample, shape (N,).
        adaptive: Score of each report sample at that alpha, shape (N,).
        intervals: Of the report split.

    Returns:
        The row.
    """
    grid = np.array(alphas)
    best = fit.predictor.fixed_alpha(budget)
    fixed = report_scores[int(np.argmin(np.abs(grid - best)))]
    by_group: dict[str, float] = {}
    grouped = fixed.copy()
    report_groups = np.array(intervals.groups)
    for group in sorted(set(intervals.groups)):
        known = np.array(fit_groups) == group
        place = int(fit_scores[:, known].mean(axis=1).argmax()) if known.any() else 0
        alpha = float(grid[place]) if known.any() else best
        by_group[group] = alpha
        rows = report_groups == group
        grouped[rows] = report_scores[int(np.argmin(np.abs(grid - alpha)))][rows]
    oracle = report_scores.max(axis=0)
    values, counts = np.unique(chosen, return_counts=True)
    return AdaptiveRow(
        budget=budget,
        best_fixed_alpha=best,
        best_fixed=intervals.of(fixed),
        adaptive=intervals.of(adaptive),
        by_group_alpha=by_group,
        best_per_group=intervals.of(grouped),
        oracle=intervals.of(oracle),
        adaptive_minus_fixed=intervals.of(adaptive, fixed),
        group_minus_fixed=intervals.of(grouped, fixed),
        oracle_minus_fixed=intervals.of(oracle, fixed),
        strength=fit.strengths[budget],
        alpha_histogram={
            f"{value:g}": int(count) for value, count in zip(values, counts, strict=True)
        },
    )


@dataclass(frozen=True)
class Panel:
    """A setting to draw on the examples.

    Attributes:
        label: Its name.
        budget: Tokens kept.
        alphas: Alpha of each sample, shape (N,).
        kept: What it keeps.
    """

    label: str
    budget: int
    alphas: Floats
    kept: Kept


def kept_examples(engine: Engine, panels: Sequence[Panel], count: int) -> list[KeptExample]:
    """Show what settings keep of some samples.

    The first sample of each question type with an image not shown yet, in the split's order, so
    that nothing about the outcome decides what is shown; then further samples.

    Args:
        engine: The report split.
        panels: Settings to draw.
        count: How many samples at most.

    Returns:
        The examples.
    """
    answers = engine.predictions([panel.kept for panel in panels]) if panels else []
    found = []
    for i in _spread(engine, count):
        sample, visual = engine.samples[i], engine.visual(i)
        if visual.boxes is None:
            continue
        drawn = []
        for panel, answer in zip(panels, answers, strict=True):
            kept = [int(token) for token in panel.kept.indices[i] if token >= 0]
            boxes = visual.boxes[kept].tolist()
            drawn.append(
                KeptPanel(
                    label=panel.label,
                    budget=panel.budget,
                    alpha=float(panel.alphas[i]),
                    kept=kept,
                    boxes=[(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes],
                    prediction=answer[i],
                )
            )
        image = sample.load_image()
        scale = min(1.0, _MAX_SIDE / max(image.size))
        if scale < 1.0:
            image = image.resize((round(image.width * scale), round(image.height * scale)))
            drawn = [_scaled(panel, scale) for panel in drawn]
        file = io.BytesIO()
        image.save(file, "PNG")
        found.append(
            KeptExample(
                question=sample.question,
                answer=sample.answers[0] if sample.answers else engine.unpruned_answers()[i],
                nouns=list(engine.prompt(i).nouns),
                image_png_base64=base64.b64encode(file.getvalue()).decode("ascii"),
                panels=drawn,
            )
        )
    return found


def _scaled(panel: KeptPanel, scale: float) -> KeptPanel:
    boxes = [(x0 * scale, y0 * scale, x1 * scale, y1 * scale) for x0, y0, x1, y1 in panel.boxes]
    return panel.model_copy(update={"boxes": boxes})


def _spread(engine: Engine, count: int) -> list[int]:
    groups: set[str] = set()
    images: set[str] = set()
    first, rest = [], []
    for i, sample in enumerate(engine.samples):
        if sample.image_id in images:
            continue
        if sample.group not in groups:
            groups.add(sample.group)
            images.add(sample.image_id)
            first.append(i)
        else:
            rest.append(i)
    more = [i for i in rest if engine.samples[i].image_id not in images]
    return (first + more)[:count]


def verdicts(rows: Sequence[ReportRow], adaptive: Mapping[int, AdaptiveRow]) -> list[str]:
    """Say of each budget whether the winner won, or is within noise."""
    found = [
        f"{row.budget} tokens: the tuned alpha {row.alpha} scores {_signed(row.versus_paper)} "
        f"against the paper's default: {_verdict(row.versus_paper)}."
        for row in rows
        if row.name == "tuned" and row.versus_paper is not None
    ]
    for budget, result in adaptive.items():
        if result.strength == 0:
            text = "cross-validation on the fit split found nothing to gain; alpha is fixed"
        else:
            difference = result.adaptive_minus_fixed
            text = f"{_signed(difference)} against the best fixed alpha: {_verdict(difference)}"
        found.append(f"{budget} tokens, adaptive alpha: {text}.")
    return found


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.3f} (95 % interval {interval.low:+.3f} to {interval.high:+.3f})"


def _verdict(difference: Interval) -> str:
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "within noise"
