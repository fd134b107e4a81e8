"""Objectives: what trials are told."""

import pytest

from tuner.scoring import metrics
from tuner.search.objectives import FixedBudget, Pareto, QualityFloor


def test_a_quality_floor_is_the_metrics_own():
    floor = QualityFloor(kind="quality-floor", keep=0.9)
    assert floor.floor(-1.0, metrics.get("log_likelihood")) == pytest.approx(-1.1)
    assert floor.floor(0.9, metrics.get("score")) == pytest.approx(0.81)
    assert Pareto().floor(0.9, metrics.get("score")) is None


@pytest.mark.parametrize(
    ("objective", "directions", "values"),
    [
        (Pareto(), ("maximize", "minimize"), [0.5, 11.0]),
        (FixedBudget(kind="fixed-budget", budget=11), ("maximize",), [0.5]),
        (QualityFloor(kind="quality-floor", keep=0.9), ("minimize",), [11.0]),
    ],
)
def test_what_a_trial_is_told(objective, directions, values):
    assert objective.directions == directions
    assert objective.values(0.5, 11) == values
