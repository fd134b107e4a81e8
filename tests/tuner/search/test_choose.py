"""Choosing a setting, and recommending a budget."""

import numpy as np
import pytest

from resprune.setting import Setting
from tuner.scoring import metrics
from tuner.search.choose import Candidate, choose_setting
from tuner.search.objectives import Certified, FixedBudget, Pareto, QualityFloor

IMAGES = [str(i) for i in range(100)]
SCORE, NATS = metrics.get("score"), metrics.get("log_likelihood")


def setting(alpha, strategy="l2_norm"):
    return Setting.of("resprune", 11, alpha=alpha, seed_strategy=strategy)


def candidate(alpha, right, strategy="l2_norm"):
    """A setting that answers the first ``right`` of 100 questions."""
    return Candidate(setting(alpha, strategy), (np.arange(100) < right).astype(float))


def test_a_clear_winner_wins():
    pool = [candidate(0.0, 50), candidate(0.5, 80), candidate(4.0, 40)]
    assert choose_setting(pool, IMAGES).setting.option("alpha") == 0.5


def plateau(lead):
    """Three settings: one leads by ``lead`` of 100 questions, two others agree with each other."""
    best = np.array([1.0] * 70 + [0.0] * 30)
    near = best.copy()
    near[: 10 + lead], near[70:80] = 0.0, 1.0
    return [
        Candidate(setting(0.25), best),
        Candidate(setting(0.5), near),
        Candidate(setting(0.75), near),
        candidate(8.0, 5),
    ]


def test_near_ties_go_to_the_middle_of_the_plateau():
    # 0.25 is one question ahead, with a paired standard error of sqrt(21); the two that answer
    # alike are the middle, of which the first named is taken
    assert choose_setting(plateau(1), IMAGES).setting.option("alpha") == 0.5
    # with a lead of 9 questions there is no tie
    assert choose_setting(plateau(9), IMAGES).setting.option("alpha") == 0.25


def test_the_middle_is_found_without_alpha():
    """Brute force over tied settings of methods that have no alpha at all."""
    rng = np.random.default_rng(0)
    base = rng.random(100) < 0.7
    pool = []
    for i, method in enumerate(("divprune", "uniform", "l2_norm", "cdpruner")):
        scores = base.astype(float)
        for answers in (True, False):  # as many right ones lost as wrong ones gained
            flips = rng.permutation(np.flatnonzero(base == answers))[: 2 + 3 * i]
            scores[flips] = 1 - scores[flips]
        pool.append(Candidate(Setting.of(method, 11), scores))
    chosen = choose_setting(pool, IMAGES)
    distance = {c.setting: sum(abs(c.scores - other.scores).mean() for other in pool) for c in pool}
    assert distance[chosen.setting] == pytest.approx(min(distance.values()))


def test_equal_scores_are_told_apart_by_neither_order_nor_repeats():
    pool = [candidate(0.5, 60, "l2_norm"), candidate(0.5, 61, "cls_attention")]
    assert choose_setting(pool, IMAGES).setting.option("seed_strategy") == "cls_attention"
    assert choose_setting([*pool, *pool[:1] * 9], IMAGES) == choose_setting(pool, IMAGES)


def test_choosing_does_not_depend_on_the_order_of_distinct_candidates():
    pool = [candidate(a, r) for a, r in ((0.0, 55), (0.5, 62), (1.0, 63), (2.0, 20))]
    assert choose_setting(pool, IMAGES).setting == choose_setting(pool[::-1], IMAGES).setting


SCORES = {43: 0.90, 22: 0.88, 11: 0.80, 6: 0.6}


def test_pareto_takes_the_fewest_tokens_near_unpruned():
    assert Pareto(tolerance=0.05).recommend(SCORES, 0.92, SCORE, ())[0] == 22
    assert Pareto(tolerance=0.2).recommend(SCORES, 0.92, SCORE, ())[0] == 11


def test_pareto_falls_back_to_the_knee():
    scores = {64: 0.62, 32: 0.61, 16: 0.60, 8: 0.2}
    tokens, reason = Pareto(tolerance=0.05).recommend(scores, 0.95, SCORE, ())
    assert tokens == 16
    assert "the knee of the front, breaks that tolerance" in reason


@pytest.mark.parametrize(("passed", "tokens"), [((43, 22), 22), ((6,), 6), ((), None)])
def test_certified_takes_the_fewest_that_passed_whatever_they_score(passed, tokens):
    found, reason = Certified().recommend(SCORES, 0.92, SCORE, passed)
    assert found == tokens
    assert ("all tokens are recommended" in reason) == (tokens is None)


@pytest.mark.parametrize(("keep", "tokens"), [(0.95, 22), (0.6, 6), (0.999, 43)])
def test_quality_floor_takes_the_fewest_that_meet_it(keep, tokens):
    objective = QualityFloor(kind="quality-floor", keep=keep)
    found, reason = objective.recommend(SCORES, 0.92, SCORE, ())
    assert found == tokens
    assert ("No budget meets" in reason) == (keep == 0.999)


def test_fixed_budget_is_its_own():
    objective = FixedBudget.model_validate({"kind": "fixed-budget", "budget": 11})
    assert objective.recommend({11: 0.1}, 0.9, SCORE, ())[0] == 11


def test_log_likelihoods_lose_nats():
    assert NATS.floor(-1.0, 0.1) == pytest.approx(-1.1)
    assert SCORE.floor(0.9, 0.1) == pytest.approx(0.81)
    assert Pareto(tolerance=0.05).recommend({22: -1.04, 6: -2.0}, -1.0, NATS, ())[0] == 22
