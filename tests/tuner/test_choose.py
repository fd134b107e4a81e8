"""Choosing a setting and recommending a budget."""

import numpy as np
import pytest
from tuner.choose import Candidate, choose_setting, floor_of, recommend
from tuner.evaluate import Setting

from tuner.study import ObjectiveSpec

IMAGES = [str(i) for i in range(100)]


def candidate(alpha, right, strategy="l2_norm"):
    """A setting that answers the first ``right`` of 100 questions."""
    return Candidate(Setting(alpha, strategy), (np.arange(100) < right).astype(float))


def test_a_clear_winner_wins():
    pool = [candidate(0.0, 50), candidate(0.5, 80), candidate(4.0, 40)]
    assert choose_setting(pool, IMAGES).setting.alpha == 0.5


def test_near_ties_go_to_the_middle_of_the_plateau():
    # 0.25 answers 70 questions; 0.5 and 0.75 win 10 others and lose 11: one less, but a paired
    # standard error of sqrt(21) questions
    best = np.array([1.0] * 70 + [0.0] * 30)
    near = best.copy()
    near[:11], near[70:80] = 0.0, 1.0
    pool = [
        Candidate(Setting(0.25, "l2_norm"), best),
        Candidate(Setting(0.5, "l2_norm"), near),
        Candidate(Setting(0.75, "l2_norm"), near),
        candidate(8.0, 5),
    ]
    assert choose_setting(pool, IMAGES).setting.alpha == 0.5
    # with a lead of 9 questions there is no tie
    near[11:19] = 0.0
    assert choose_setting(pool, IMAGES).setting.alpha == 0.25


def test_ties_of_seed_strategies_go_to_the_better_one():
    pool = [candidate(0.5, 60, "l2_norm"), candidate(0.5, 61, "cls_attention")]
    assert choose_setting(pool, IMAGES).setting.seed_strategy == "cls_attention"


def test_choosing_does_not_depend_on_the_order_of_distinct_candidates():
    pool = [candidate(a, r) for a, r in ((0.0, 55), (0.5, 62), (1.0, 63), (2.0, 20))]
    assert choose_setting(pool, IMAGES).setting == choose_setting(pool[::-1], IMAGES).setting


PARETO = ObjectiveSpec(tolerance=0.05)


def test_pareto_takes_the_fewest_tokens_near_unpruned():
    scores = {43: 0.90, 22: 0.88, 11: 0.80, 6: 0.6}
    assert recommend(PARETO, scores, 0.92, "score")[0] == 22
    assert recommend(ObjectiveSpec(tolerance=0.2), scores, 0.92, "score")[0] == 11


def test_pareto_falls_back_to_the_knee():
    scores = {64: 0.62, 32: 0.61, 16: 0.60, 8: 0.2}
    budget, reason = recommend(PARETO, scores, 0.95, "score")
    assert budget == 16
    assert "knee" in reason


@pytest.mark.parametrize(("keep", "budget"), [(0.95, 22), (0.6, 6), (0.999, 43)])
def test_quality_floor_takes_the_fewest_that_meet_it(keep, budget):
    objective = ObjectiveSpec(kind="quality-floor", keep=keep)
    scores = {43: 0.90, 22: 0.88, 11: 0.80, 6: 0.6}
    found, reason = recommend(objective, scores, 0.92, "score")
    assert found == budget
    assert ("No budget meets" in reason) == (keep == 0.999)


def test_fixed_budget_is_its_own():
    objective = ObjectiveSpec(kind="fixed-budget", budget=11)
    assert recommend(objective, {11: 0.1}, 0.9, "score")[0] == 11


def test_log_likelihoods_lose_nats():
    assert floor_of(-1.0, 0.1, "log_likelihood") == pytest.approx(-1.1)
    assert floor_of(0.9, 0.1, "score") == pytest.approx(0.81)
    assert recommend(PARETO, {22: -1.04, 6: -2.0}, -1.0, "log_likelihood")[0] == 22
