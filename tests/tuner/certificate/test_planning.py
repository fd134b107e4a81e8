import numpy as np
import pytest

from resprune.certificate import Claim
from resprune.errors import StudyError
from tuner.certificate import (
    betting_p_value,
    exact_p_value,
    images_needed,
    images_to_bet,
    images_to_pass,
    images_to_prove,
    least_images,
    log_wealth,
    power,
    require_provable,
    t_p_value,
)

CLAIM = Claim(loss=0.02)
RELATIVE = Claim(loss=0.02, scale="relative")


def simulated_power(n, worse, better, test, draws, seed=0):
    rng = np.random.default_rng(seed)
    passed = 0
    for d in rng.choice([1.0, -1.0, 0.0], p=[worse, better, 1 - worse - better], size=(draws, n)):
        b, c = int(np.sum(d == 1)), int(np.sum(d == -1))
        if test == "exact":
            passed += exact_p_value(b, c, n, 0.02) <= 0.05
        elif test == "betting":
            passed += betting_p_value(d - 0.02, 0.98) <= 0.05
        else:
            passed += b + c >= 20 and t_p_value(d - 0.02, b + c) <= 0.05
    return passed / draws


@pytest.mark.parametrize(
    ("test", "n", "worse", "better"),
    [
        ("exact", 200, 0.015, 0.015),
        ("exact", 150, 0.005, 0.0),
        ("betting", 400, 0.015, 0.015),
        ("betting", 300, 0.005, 0.02),
        ("t", 600, 0.02, 0.02),
    ],
)
def test_power_is_how_often_the_test_passes(test, n, worse, better):
    expected = simulated_power(n, worse, better, test, 300)
    found = power(n, worse, better, CLAIM, test)
    assert found == pytest.approx(expected, abs=0.085)
    assert 0.02 < found < 0.99


def test_a_large_study_is_planned_by_the_normal_limit_without_a_step():
    small, large = (power(n, 0.05, 0.045, CLAIM, "exact") for n in (3000, 3001))
    assert large == pytest.approx(small, abs=0.005)
    assert 0.3 < small < 0.99


@pytest.mark.parametrize("test", ["exact", "betting", "t"])
def test_images_needed_have_the_power_and_fewer_do_not(test):
    needed = images_needed(0.015, 0.012, CLAIM, test)
    assert power(needed, 0.015, 0.012, CLAIM, test) == pytest.approx(0.8, abs=0.04)
    assert power(needed * 8 // 10, 0.015, 0.012, CLAIM, test) < 0.77
    assert images_needed(0.015, 0.012, CLAIM, test, power=0.95) > 1.2 * needed


def test_images_needed_of_published_figures():
    assert 520 <= images_needed(0.015, 0.015, CLAIM, "exact") <= 580
    assert 840 <= images_needed(0.015, 0.015, CLAIM, "betting") <= 1010
    assert images_needed(0.0, 0.0, CLAIM, "exact") == 149


@pytest.mark.parametrize("test", ["exact", "betting", "t"])
def test_no_number_of_images_proves_what_is_false(test):
    assert images_needed(0.03, 0.01, CLAIM, test) is None
    assert images_needed(0.05, 0.01, CLAIM, test) is None


def test_a_relative_claim_knows_the_unpruned_score():
    # at an unpruned score of 1 both scales claim the same
    same = images_needed(0.015, 0.0, RELATIVE, "betting", unpruned=1.0)
    assert same == pytest.approx(images_needed(0.015, 0.0, CLAIM, "betting"), rel=0.1)
    assert images_needed(0.0, 0.0, RELATIVE, "betting", unpruned=0.5) > 1.2 * images_needed(
        0.0, 0.0, RELATIVE, "betting", unpruned=0.9
    )
    with pytest.raises(StudyError, match="unpruned score None"):
        power(100, 0.01, 0.01, RELATIVE, "betting")
    with pytest.raises(StudyError, match=r"between 0\.3 and 0\.9"):
        power(100, 0.3, 0.1, RELATIVE, "betting", unpruned=0.2)
    with pytest.raises(StudyError, match="absolute"):
        power(100, 0.01, 0.01, RELATIVE, "exact", unpruned=0.9)


def test_rates_that_are_none():
    for worse, better in ((-0.1, 0.1), (0.6, 0.5), (np.nan, 0.1)):
        with pytest.raises(StudyError, match="at most 1"):
            power(100, worse, better, CLAIM, "exact")


@pytest.mark.parametrize(("worse", "better", "n"), [(12, 5, 600), (1, 0, 100), (3, 3, 150)])
def test_images_to_pass(worse, better, n):
    assert exact_p_value(worse, better, n, 0.02) > 0.05
    needed = images_to_pass(worse, better, n, 0.02, 0.95)
    assert needed > n
    for times, passes in ((-(-needed // n), True), (needed * 9 // 10 // n, False)):
        p_value = exact_p_value(worse * times, better * times, n * times, 0.02)
        assert (p_value <= 0.05) == passes, times


def test_images_to_pass_at_the_ends():
    assert images_to_pass(0, 0, 100, 0.02, 0.95) == 149
    assert images_to_pass(9, 5, 600, 0.02, 0.95) == 600  # passed already
    assert images_to_pass(2, 0, 100, 0.02, 0.95) is None
    assert images_to_pass(3, 0, 100, 0.02, 0.95) is None
    # by the normal limit: (1.645 / .0004)^2 times the variance where the claim is just false
    expected = (1.645 / 0.0004) ** 2 * 0.0196
    assert images_to_pass(49, 0, 2500, 0.02, 0.95) == pytest.approx(expected, rel=0.02)


def test_images_to_bet():
    rng = np.random.default_rng(0)
    seen = rng.choice([0.98, -1.02, -0.02], p=[0.02, 0.02, 0.96], size=250)
    assert betting_p_value(seen, 0.98) > 0.05
    needed = images_to_bet(seen, 0.98, 0.95)
    again = log_wealth(np.resize(seen, needed), 0.98)
    assert needed > 250
    assert again[-1] >= np.log(20) > again[:-1].max()
    assert images_to_bet([-0.5] * 100, 0.98, 0.95) < 100
    assert images_to_bet([0.5, -0.5], 0.98, 0.95) is None
    assert images_to_bet([0.5, -0.501], 0.98, 0.95) is None  # not in 64 times as many


@pytest.mark.parametrize(
    ("loss", "confidence", "least"), [(0.02, 0.95, 149), (0.01, 0.95, 299), (0.05, 0.9, 45)]
)
def test_least_images(loss, confidence, least):
    assert least_images(loss, confidence) == least
    assert (1 - loss) ** least <= 1 - confidence < (1 - loss) ** (least - 1)


@pytest.mark.parametrize("claim", [CLAIM, Claim(loss=0.3, confidence=0.99)])
@pytest.mark.parametrize("improves", [True, False])
def test_images_to_prove_is_where_the_best_outcome_first_passes(claim, improves):
    level = 1 - claim.confidence
    n = images_to_prove(claim, "exact", improves)
    for images, passes in ((n, True), (n - 1, False)):
        best = exact_p_value(0, images if improves else 0, images, claim.loss)
        assert (best <= level) == passes
    n = images_to_prove(claim, "betting", improves)
    margin = -1 - claim.loss if improves else -claim.loss
    for images, passes in ((n, True), (n - 1, False)):
        best = betting_p_value(np.full(images, margin), 1 - claim.loss)
        assert (best <= level) == passes


def test_images_to_prove_by_t():
    assert images_to_prove(CLAIM, "t") == 20
    n = images_to_prove(CLAIM, "t", improves=False)
    for images, passes in ((n, True), (n - 1, False)):
        best = np.full(images, -0.02)
        best[:20] += 1
        assert (t_p_value(best, 20) <= 0.05) == passes


def test_an_unprovable_claim_is_refused():
    require_provable(149, CLAIM, "exact", improves=False)
    require_provable(5, CLAIM, "exact")
    with pytest.raises(StudyError, match=r"148 images .* at least 149 images"):
        require_provable(148, CLAIM, "exact", improves=False)
    with pytest.raises(StudyError, match=r"4 images .* at least 5 images"):
        require_provable(4, CLAIM, "exact")
