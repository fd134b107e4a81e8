"""The interval of a ratio holds what it should, as often as it says."""

import numpy as np
import pytest

from tuner.efficiency.ratios import LEAST_ROUNDS, speedup, spread


@pytest.mark.parametrize("rounds", [LEAST_ROUNDS, 9, 20])
def test_the_interval_holds_the_median_in_95_of_100_runs(rounds):
    rng = np.random.default_rng(0)
    runs, truth, held = 4000, 1.7, 0
    for _ in range(runs):
        # a few rounds are disturbed, as on a busy machine
        whole = rng.lognormal(np.log(truth), 0.2, rounds) * (1 + 4 * (rng.random(rounds) < 0.1))
        pruned = rng.lognormal(0.0, 0.2, rounds) * (1 + 4 * (rng.random(rounds) < 0.1))
        found = speedup(whole, pruned)
        held += found.low <= truth <= found.high
    assert held / runs >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / runs)
    assert held / runs < 0.995


def test_pairs_count_and_not_the_two_medians():
    whole = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    pruned = [each / 2 for each in whole]
    found = speedup(whole, pruned)
    assert (found.ratio, found.low, found.high) == (2.0, 2.0, 2.0)


def test_a_spread_is_of_quartiles():
    found = spread(range(9))
    assert (found.low, found.median, found.high) == (2.0, 4.0, 6.0)
