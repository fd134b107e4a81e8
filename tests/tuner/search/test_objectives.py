"""Objectives: what trials are told, and which budget is recommended."""

import pytest

from tuner.scoring import metrics
from tuner.search.objectives import FixedBudget, Pareto, QualityFloor

SCORE, NATS = metrics.get("score"), metrics.get("log_likelihood")
PARETO = Pareto(tolerance=0.05)


def test_pareto_takes_the_fewest_tokens_near_unpruned():
    scores = {43: 0.90, 22: 0.88, 11: 0.80, 6: 0.6}
    assert PARETO.recommend(scores, 0.92, SCORE)[0] == 22
    assert Pareto(tolerance=0.2).recommend(scores, 0.92, SCORE)[0] == 11


def test_pareto_falls_back_to_the_knee():
    budget, reason = PARETO.recommend({64: 0.62, 32: 0.61, 16: 0.60, 8: 0.2}, 0.95, SCORE)
    assert budget == 16
    assert "knee" in reason


@pytest.mark.parametrize(("keep", "budget"), [(0.95, 22), (0.6, 6), (0.999, 43)])
def test_quality_floor_takes_the_fewest_that_meet_it(keep, budget):
    objective = QualityFloor(kind="quality-floor", keep=keep)
    found, reason = objective.recommend({43: 0.90, 22: 0.88, 11: 0.80, 6: 0.6}, 0.92, SCORE)
    assert found == budget
    assert ("No budget meets" in reason) == (keep == 0.999)


def test_fixed_budget_is_its_own():
    objective = FixedBudget(kind="fixed-budget", budget=11)
    assert objective.recommend({11: 0.1}, 0.9, SCORE)[0] == 11


def test_log_likelihoods_lose_nats():
    assert PARETO.recommend({22: -1.04, 6: -2.0}, -1.0, NATS)[0] == 22
    floor = QualityFloor(kind="quality-floor", keep=0.9)
    assert floor.floor(-1.0, NATS) == pytest.approx(-1.1)
    assert floor.floor(0.9, SCORE) == pytest.approx(0.81)
    assert PARETO.floor(0.9, SCORE) is None


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
