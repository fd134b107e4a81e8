"""The guard against sums by hand, all sign flips, and simulations where the truth is known."""

import itertools

import numpy as np
import pytest

from tuner.alpha.guard import CONFIDENCE, Evidence, weigh
from tuner.results.statistics import standard_error


def one_order(gains, clusters, seed=0):
    gains = np.asarray(gains, dtype=float)
    return weigh(gains[None], np.ones((1, gains.shape[1]), bool), np.asarray(clusters), seed)


def clustered(rng, tries, sizes, alike=0.8):
    """Gains without a mean: tries resemble each other, and so do samples of a cluster."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)

    def noise(count):
        shared = rng.normal(size=(1, count))
        return np.sqrt(alike) * shared + np.sqrt(1 - alike) * rng.normal(size=(tries, count))

    return noise(len(sizes))[:, clusters] + noise(len(clusters)), clusters


def test_gain_and_standard_error_are_those_of_one_comparison():
    rng = np.random.default_rng(0)
    gains, clusters = clustered(rng, 3, rng.integers(1, 9, 40))
    for evidence, gain in zip(one_order(gains + 0.3, clusters), gains + 0.3, strict=True):
        assert evidence.gain == pytest.approx(gain.mean())
        assert evidence.standard_error == pytest.approx(standard_error(gain, None, clusters))


def test_p_values_are_those_of_all_sign_flips():
    rng = np.random.default_rng(1)
    gains, clusters = clustered(rng, 3, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5])
    gains += np.array([[0.9], [0.6], [0.0]])
    found = one_order(gains, clusters)

    def largest(signs):
        best = -np.inf
        for gain in gains:
            flipped = gain * np.array(signs)[clusters]
            best = max(best, flipped.mean() / standard_error(flipped, None, clusters))
        return best

    flips = np.array([largest(signs) for signs in itertools.product((-1, 1), repeat=10)])
    for evidence, gain in zip(found, gains, strict=True):
        t = gain.mean() / standard_error(gain, None, clusters)
        exact = np.mean(flips >= t - 1e-9)
        error = np.sqrt(exact * (1 - exact) / 2000)
        assert evidence.p_value == pytest.approx(exact, abs=4 * error + 1e-3)
    assert found[0].p_value < 0.2 < found[2].p_value


def test_of_many_tries_without_a_gain_one_passes_seldom():
    """Few clusters of unequal sizes, as wordings are; single tests at 5 % would pass far more."""
    sizes = [1, 1, 2, 2, 3, 5, 8, 8, 13, 13, 20, 20, 30, 30]
    passed = alone = 0
    for seed in range(300):
        gains, clusters = clustered(np.random.default_rng(seed), 12, sizes, alike=0.5)
        found = one_order(gains, clusters, 1000 + seed)  # other signs than those of the noise
        passed += any(evidence.shown for evidence in found)
        alone += any(evidence.gain > 1.64 * evidence.standard_error for evidence in found)
    assert passed / 300 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)
    assert passed > 0
    assert alone / 300 > 0.2


def test_a_real_gain_passes_and_only_in_its_try():
    rng = np.random.default_rng(2)
    gains, clusters = clustered(rng, 6, [8] * 250)
    gains[4] += 0.5
    shown = [evidence.shown for evidence in one_order(gains, clusters)]
    assert shown == [False, False, False, False, True, False]


def test_orders_are_averaged_and_never_add_up_to_more_certainty():
    rng = np.random.default_rng(3)
    gains, clusters = clustered(rng, 2, [4] * 50)
    gains += 0.4
    (once, _), (twice, _) = (
        weigh(np.stack([gains] * r), np.ones((r, 200), bool), clusters, 0) for r in (1, 2)
    )
    assert (twice.gain, twice.standard_error) == pytest.approx((once.gain, once.standard_error))
    assert twice.p_value == pytest.approx(once.p_value, abs=0.02)
    # of the second order only half was predicted
    tested = np.stack([np.ones(200, bool), np.arange(200) < 100])
    (half, _) = weigh(np.stack([gains, 2 * gains]), tested, clusters, 0)
    assert half.gain == pytest.approx((gains[0].mean() + 2 * gains[0, :100].mean()) / 2)


def test_no_difference_at_all_is_no_gain_and_the_same_everywhere_is_one():
    clusters = np.repeat(np.arange(30), 2)
    none, sure, worse = one_order([[0.0] * 60, [0.1] * 60, [-0.1] * 60], clusters)
    assert (none.gain, none.shown) == (0.0, False)
    assert sure.shown
    assert not worse.shown
    assert Evidence(0.1, 0.01, 1 - CONFIDENCE).shown
    assert not Evidence(0.1, 0.01, 1 - CONFIDENCE + 1e-6).shown
    assert not Evidence(0.0, 0.0, 0.0).shown
