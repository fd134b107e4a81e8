"""Objectives: what trials are told."""

import pytest

from tuner.scoring import metrics
from tuner.search.objectives import Certified, FixedBudget, Pareto, QualityFloor


def test_a_quality_floor_is_the_metrics_own():
    floor = QualityFloor(kind="quality-floor", keep=0.9)
    assert floor.floor(-1.0, metrics.get("log_likelihood")) == pytest.approx(-1.1)
    assert floor.floor(0.9, metrics.get("score")) == pytest.approx(0.81)
    assert Pareto().floor(0.9, metrics.get("score")) is None


@pytest.mark.parametrize(
    ("objective", "directions", "values"),
    [
        (Certified(), ("maximize", "minimize"), [0.5, 11.0]),
        (Pareto(), ("maximize", "minimize"), [0.5, 11.0]),
        (FixedBudget(kind="fixed-budget", budget=11), ("maximize",), [0.5]),
        (QualityFloor(kind="quality-floor", keep=0.9), ("minimize",), [11.0]),
    ],
)
def test_what_a_trial_is_told(objective, directions, values):
    assert objective.directions == directions
    assert objective.values(0.5, 11) == values


@pytest.mark.parametrize(
    ("objective", "loss", "scale"),
    [
        (Certified(loss=0.03, scale="relative"), 0.03, "relative"),
        (Certified(), 0.02, "absolute"),
        (Pareto(tolerance=0.05), 0.05, "relative"),
        (QualityFloor(kind="quality-floor", keep=0.9), 0.1, "relative"),
        (FixedBudget(kind="fixed-budget", budget=11), 0.02, "absolute"),
    ],
)
def test_what_is_claimed(objective, loss, scale):
    claim = objective.claim(metrics.get("score"))
    assert (claim.loss, claim.scale, claim.confidence) == (loss, scale, 0.95)
    # nats have no zero that a share could be of
    assert objective.claim(metrics.get("log_likelihood")).scale == "absolute"


@pytest.mark.parametrize("objective", [Pareto(tolerance=0.0), Pareto(tolerance=1.0)])
def test_a_tolerance_that_nothing_could_show_is_no_claim(objective):
    assert objective.claim(metrics.get("score")) is None
