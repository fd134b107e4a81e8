import itertools
import math

import numpy as np
import pytest

from resprune.certificate import Claim
from resprune.errors import StudyError
from tuner.certificate import Betting, Bounds, betting_p_value, log_wealth

CLAIM = Claim(loss=0.02)


def plain_log_wealth(margins, bound):
    """Products, bet by bet, as the paper writes them."""
    from tuner.certificate.betting import stakes

    shares, weights = stakes()
    wealth = [
        w * math.prod(1 - s / bound * z for z in margins)
        for s, w in zip(shares, weights, strict=True)
    ]
    return math.log(sum(wealth))


def test_the_bets_are_predictable_and_within_bounds():
    from tuner.certificate.betting import stakes

    shares, weights = stakes()
    assert ((shares > 0) & (shares < 1)).all()
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("chance", [0.5, 0.2, 0.9])
def test_expected_wealth_by_enumeration(chance):
    # two outcomes, so that the mean margin is 0: the wealth stays 1 on average, at every image
    high, images = 0.8, 5
    low = -high * chance / (1 - chance)
    for shift, least, most in ((0.0, 1 - 1e-9, 1 + 1e-9), (0.1, 0.0, 1 - 1e-3), (-0.1, 1.001, 99)):
        expected = np.zeros(images)
        for outcome in itertools.product((high, low), repeat=images):
            up = outcome.count(high)
            probability = chance**up * (1 - chance) ** (images - up)
            expected += probability * np.exp(log_wealth(np.array(outcome) + shift, 1.0))
        assert (expected > least).all()
        assert (expected < most).all()


def test_one_image_after_another_equals_the_whole():
    rng = np.random.default_rng(0)
    margins = rng.choice([0.98, -1.02, -0.02], p=[0.02, 0.03, 0.95], size=300)
    betting = Betting(CLAIM, 1)
    path = log_wealth(margins, 0.98)
    other = log_wealth(-margins, 1.02)
    for i, margin in enumerate(margins):
        betting.add(margin)
        assert math.log(betting.wealth) == pytest.approx(path[i])
        assert math.log(betting.opposite) == pytest.approx(other[i])
        assert betting.p_value == pytest.approx(min(1, math.exp(-path[: i + 1].max())))
    assert betting.images == 300
    assert path[-1] == pytest.approx(plain_log_wealth(margins.tolist(), 0.98))
    assert betting_p_value(margins, 0.98) == pytest.approx(betting.p_value)


def test_nothing_seen_says_nothing():
    betting = Betting(CLAIM, 1)
    assert (betting.wealth, betting.opposite, betting.p_value) == (1, 1, 1)
    assert betting.verdict == "undecided"


@pytest.mark.parametrize(
    ("margin", "verdict"), [(-0.02, "certified"), (0.98, "refuted"), (-1.02, "certified")]
)
def test_the_first_verdict_stays(margin, verdict):
    betting = Betting(CLAIM, 1)
    sides = [lambda: betting.p_value, lambda: betting.opposite_p_value]
    mine, other = sides if verdict == "certified" else sides[::-1]
    while betting.add(margin) == "undecided":
        assert mine() > 0.05
    assert betting.verdict == verdict
    assert mine() <= 0.05 < other()
    for _ in range(60):
        betting.add(0.98 if margin < 0 else -1.02)
    assert other() <= 0.05
    assert betting.verdict == verdict


def test_a_little_evidence_is_no_verdict():
    betting = Betting(CLAIM, 1)
    for _ in range(100):
        betting.add(-0.02)
    assert betting.verdict == "undecided"
    assert 0.05 < betting.p_value < 1


@pytest.mark.parametrize(
    ("values", "chances", "bound"),
    [
        ([0.98, -1.02, -0.02], [0.02, 0.0, 0.98], 0.98),
        ([0.98, -1.02, -0.02], [0.035, 0.015, 0.95], 0.98),
        ([0.98, -1.02, -0.02], [0.12, 0.1, 0.78], 0.98),
        ([2.9, -0.1], [1 / 30, 29 / 30], 2.9),
    ],
)
def test_level_at_any_time_where_the_claim_is_just_false(values, chances, bound):
    draws, images = 400, 300
    assert np.dot(values, chances) == pytest.approx(0, abs=1e-12)
    rng = np.random.default_rng(1)
    drawn = rng.choice(values, p=chances, size=(draws, images))
    passed = sum(betting_p_value(row, bound) <= 0.05 for row in drawn)
    assert passed / draws <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize(("n", "expected"), [(300, 0.28), (600, 0.58)])
def test_power_where_nothing_is_lost(n, expected):
    # 3 % of answers flip, half each way; the claim is 2 points
    rng = np.random.default_rng(2)
    drawn = rng.choice([0.98, -1.02, -0.02], p=[0.015, 0.015, 0.97], size=(600, n))
    passed = np.mean([betting_p_value(row, 0.98) <= 0.05 for row in drawn])
    assert passed >= expected - 0.03


def test_margins_beyond_their_bounds():
    with pytest.raises(StudyError, match=r"1\.5 is beyond its bound 0\.98"):
        log_wealth([0.1, 1.5], 0.98)
    betting = Betting(CLAIM, 2)
    betting.add(1.5)
    for margin in (2.5, -2.5, math.nan, -math.inf):
        with pytest.raises(StudyError, match="beyond its bound"):
            betting.add(margin)
    assert betting.images == 1


def test_bounds():
    assert Bounds.of(CLAIM, 3) == Bounds(above=3 * 0.98, below=3 * 1.02)
    relative = Claim(loss=0.1, scale="relative")
    assert Bounds.of(relative, 2) == Bounds(above=1.8, below=2.0)
    assert Bounds.of(CLAIM, 1, clip=-6.0) == Bounds(above=5.98, below=6.02)
    with pytest.raises(StudyError, match="scale"):
        Bounds.of(relative, 1, clip=-6.0)
    with pytest.raises(StudyError, match=r"clip below -0\.02"):
        Bounds.of(CLAIM, 1, clip=-0.01)
