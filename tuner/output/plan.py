"""What ``resprune-tune plan`` and ``certify`` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tuner.output import certified
from tuner.output.wording import Scale, duration

if TYPE_CHECKING:
    from tuner.certifying import Certification
    from tuner.planning import StudyPlan


def show_plan(plan: StudyPlan, console: Console) -> None:
    """Print a plan: what the claim needs at each budget, then what each split needs and costs."""
    scale = Scale.of_metric(plan.metric)
    console.print(
        f"Claim: {certified.claim_text(plan.claim, scale)}, with {100 * plan.claim.confidence:g} % "
        f"confidence ({plan.test} test). A policy that turns no wrong answer right needs "
        f"{plan.least_images:,} images at least.\nFlips: {plan.source}.",
        markup=False,
        highlight=False,
    )
    table = Table(title="Certify images for the claim at 80 % power", title_justify="left")
    for head in ("budget", "turned wrong", "turned right", "at this loss", "if tuning closes it"):
        table.add_column(head, justify="right")
    for row in plan.budgets:
        table.add_row(
            row.budget,
            f"{row.worse:.1%}",
            f"{row.better:.1%}",
            "not at any number" if row.images is None else f"{row.images:,}",
            "-" if row.images_if_level is None else f"{row.images_if_level:,}",
        )
    console.print(table)
    table = Table(title="Splits, with one question an image", title_justify="left")
    for head in ("split", "questions given", "images needed", "passes at most", "time here"):
        table.add_column(head, justify="right")
    table.add_column("needed")
    for each in plan.splits:
        table.add_row(
            each.split,
            f"{each.has:,}",
            "-" if each.needs is None else f"{each.needs:,}",
            f"{each.passes:,}",
            duration(each.seconds),
            each.why,
        )
    console.print(table)


def show_certification(found: Certification, console: Console) -> None:
    """Print the verdict on a claim, then its numbers."""
    scale = Scale.of_metric(found.metric)
    console.print(
        f"{found.verdict}: {certified.claim_text(found.claim, scale)}, at budget {found.budget} "
        f"(confidence {100 * found.claim.confidence:g} %)",
        markup=False,
        highlight=False,
    )
    console.print(
        f"{found.images:,} of {found.split.images:,} images, {found.questions:,} questions: "
        f"{certified.loss_measured(found.loss, found.claim, scale)}; {found.worse:,} scores fell "
        f"and {found.better:,} rose; {found.test} test, p = {certified.p_text(found.p_value)}",
        markup=False,
        highlight=False,
    )
