"""How fast what was chosen is, and what memory it saves, on the study's own model and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from resprune.budget import Budget
from resprune.setting import Adaptive, Setting
from tuner.efficiency.runs import SHORT, bench, sample_prompts
from tuner.results.efficiency import Efficiency
from tuner.stages.adaptive import Fitted
from tuner.stages.opened import OpenedStudy


def measure_chosen(
    opened: OpenedStudy, policies: Mapping[Budget, Setting | Adaptive], fitted: Fitted | None
) -> Efficiency:
    """Run the short form of the bench on the policies that are exported.

    Args:
        opened: The study.
        policies: What is exported at each budget.
        fitted: The predictor of adaptive policies, or None.
    """
    samples = opened.samples["tune"][: SHORT.prompts]
    return bench(
        opened.backbone,
        sample_prompts(opened.backbone, samples),
        list(policies.values()),
        replace(SHORT, seed=opened.seed),
        model=opened.study.backbone.model,
        source="the tune split",
        predictor=None if fitted is None else fitted.fit.predictor,
        progress=opened.progress.step,
    )
