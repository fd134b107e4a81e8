"""Choosing a setting, and recommending a budget."""

import numpy as np
import pytest

from resprune.setting import Setting
from tuner.scoring import metrics
from tuner.search.choose import Candidate, choose_setting
from tuner.search.objectives import Certified, FixedBudget, Pareto, QualityFloor, Tuned

SCORE, NATS = metrics.get("score"), metrics.get("log_likelihood")


def setting(alpha, strategy="l2_norm"):
    return Setting.of("resprune", 11, alpha=alpha, seed_strategy=strategy)


def candidate(alpha, right, strategy="l2_norm"):
    """A setting that answers the first ``right`` of 100 questions."""
    return Candidate(setting(alpha, strategy), (np.arange(100) < right).astype(float))


def test_a_clear_winner_wins():
    pool = [candidate(0.0, 50), candidate(0.5, 80), candidate(4.0, 40)]
    assert choose_setting(pool).setting.option("alpha") == 0.5


def test_a_lead_that_the_neighbours_do_not_share_is_luck():
    # at 2.0 stands the best mean, alone between two that are much worse
    curve = [(0.0, 70), (0.25, 76), (0.5, 77), (0.75, 76), (1.75, 60), (2.0, 78), (2.25, 60)]
    pool = [candidate(alpha, right) for alpha, right in curve]
    assert choose_setting(pool).setting.option("alpha") == 0.5
    # far from all others, nothing speaks against it
    alone = [c for c in pool if c.setting.option("alpha") not in (1.75, 2.25)]
    assert choose_setting(alone).setting.option("alpha") == 2.0


def test_averages_are_those_of_a_triangle_over_an_eighth_of_the_range():
    """Brute force over random curves of two seed strategies; alpha's range is 0 to 4."""
    rng = np.random.default_rng(0)
    moved = 0
    for _ in range(30):
        alphas = rng.choice(81, size=10, replace=False) / 20
        pool = [
            candidate(float(alpha), int(right), ("l2_norm", "relevance")[i % 2])
            for i, (alpha, right) in enumerate(zip(alphas, rng.permutation(101)[:10], strict=True))
        ]

        def average(one, pool=pool):
            weighed = [
                (
                    max(
                        0.0, 1 - abs(one.setting.option("alpha") - c.setting.option("alpha")) / 0.5
                    ),
                    c,
                )
                for c in pool
                if c.setting.option("seed_strategy") == one.setting.option("seed_strategy")
            ]
            return sum(w * c.scores.mean() for w, c in weighed) / sum(w for w, _ in weighed)

        chosen = choose_setting(pool)
        assert chosen is max(pool, key=average)
        moved += chosen is not max(pool, key=lambda c: c.scores.mean())
    assert moved > 5  # the average is not the mean by another name


def test_only_numbers_lend_scores():
    """Positions, names and methods do not; a method without numbers keeps its own mean."""
    low = candidate(0.5, 10, "cls_attention")
    moved = Candidate(setting(0.5).model_copy(update={"positions": "compact"}), low.scores)
    best = candidate(0.5, 60)
    pool = [low, moved, best, candidate(3.0, 58)]
    assert choose_setting(pool) is best
    plain = Candidate(Setting.of("l2_norm", 11), (np.arange(100) < 61).astype(float))
    assert choose_setting([*pool, plain]) is plain


def test_between_methods_the_own_mean_decides():
    # an average with neighbours that are worse does not cost a peak its place before a plain method
    pool = [candidate(0.25, 50), candidate(0.5, 60), candidate(0.75, 50)]
    plain = Candidate(Setting.of("l2_norm", 11), (np.arange(100) < 58).astype(float))
    assert choose_setting([plain, *pool]).setting.option("alpha") == 0.5


def test_equal_scores_are_told_apart_by_neither_order_nor_repeats():
    pool = [candidate(0.5, 60, "l2_norm"), candidate(0.5, 61, "cls_attention")]
    assert choose_setting(pool).setting.option("seed_strategy") == "cls_attention"
    assert choose_setting([*pool, *pool[:1] * 9]) == choose_setting(pool)
    tied = [candidate(0.5, 60, "l2_norm"), candidate(0.5, 60, "cls_attention")]
    assert choose_setting(tied) is tied[0]


def test_choosing_does_not_depend_on_the_order_of_distinct_candidates():
    pool = [candidate(a, r) for a, r in ((0.0, 55), (0.5, 62), (1.0, 63), (2.0, 20))]
    assert choose_setting(pool).setting == choose_setting(pool[::-1]).setting


SCORES = {43: 0.90, 22: 0.88, 11: 0.80, 6: 0.6}


def test_pareto_takes_the_fewest_tokens_near_unpruned():
    assert Pareto(tolerance=0.05).recommend(Tuned(SCORES, 0.92, SCORE))[0] == 22
    assert Pareto(tolerance=0.2).recommend(Tuned(SCORES, 0.92, SCORE))[0] == 11


def test_pareto_falls_back_to_the_knee():
    scores = {64: 0.62, 32: 0.61, 16: 0.60, 8: 0.2}
    tokens, reason = Pareto(tolerance=0.05).recommend(Tuned(scores, 0.95, SCORE))
    assert tokens == 16
    assert "the knee of the front, breaks that tolerance" in reason


@pytest.mark.parametrize(("passed", "tokens"), [((43, 22), 22), ((6,), 6), ((), None)])
def test_certified_takes_the_fewest_that_passed_whatever_they_score(passed, tokens):
    found, reason = Certified().recommend(Tuned(SCORES, 0.92, SCORE, passed))
    assert found == tokens
    assert ("all tokens are recommended" in reason) == (tokens is None)


@pytest.mark.parametrize(("keep", "tokens"), [(0.95, 22), (0.6, 6), (0.999, 43)])
def test_quality_floor_takes_the_fewest_that_meet_it(keep, tokens):
    objective = QualityFloor(kind="quality-floor", keep=keep)
    found, reason = objective.recommend(Tuned(SCORES, 0.92, SCORE))
    assert found == tokens
    assert ("No budget meets" in reason) == (keep == 0.999)


def test_fixed_budget_is_its_own():
    objective = FixedBudget.model_validate({"kind": "fixed-budget", "budget": 11})
    assert objective.recommend(Tuned({11: 0.1}, 0.9, SCORE))[0] == 11


def test_log_likelihoods_lose_nats():
    assert NATS.floor(-1.0, 0.1) == pytest.approx(-1.1)
    assert SCORE.floor(0.9, 0.1) == pytest.approx(0.81)
    assert Pareto(tolerance=0.05).recommend(Tuned({22: -1.04, 6: -2.0}, -1.0, NATS))[0] == 22
