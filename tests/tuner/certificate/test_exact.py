import time

import numpy as np
import pytest
from scipy import optimize, special, stats

from resprune.errors import ResPruneError
from tuner.certificate.exact import (
    critical_score,
    exact_p_value,
    largest_tail,
    score,
    tail_probability,
)


def tables(n):
    worse, better = np.divmod(np.arange((n + 1) ** 2), n + 1)
    kept = worse + better <= n
    return worse[kept], better[kept]


def log_ways(b, c, n):
    return (
        special.gammaln(n + 1)
        - special.gammaln(b + 1)
        - special.gammaln(c + 1)
        - special.gammaln(n - b - c + 1)
    )


def enumerated(inside_b, inside_c, n, loss, better_rate):
    """Multinomial probability of a set of tables on the claim's boundary, at each rate."""
    better = np.atleast_1d(better_rate)[:, None]
    rest = np.maximum(1 - 2 * better - loss, 0.0)
    logs = (
        log_ways(inside_b, inside_c, n)
        + special.xlogy(inside_b, better + loss)
        + special.xlogy(inside_c, better)
        + special.xlogy(n - inside_b - inside_c, rest)
    )
    return np.exp(logs).sum(axis=1)


def enumerated_p_value(worse, better, n, loss):
    b, c = tables(n)
    scores = score(b, c, n, loss)
    seen = scores[(b == worse) & (c == better)]
    inside = scores <= seen + 1e-8
    grid = np.linspace(0, (1 - loss) / 2, 601)
    found = np.concatenate(
        [enumerated(b[inside], c[inside], n, loss, part) for part in np.array_split(grid, 20)]
    )
    best = found.max()
    for i in np.argsort(found)[-3:]:
        around = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
        peak = optimize.minimize_scalar(
            lambda q: -enumerated(b[inside], c[inside], n, loss, q)[0],
            bounds=around,
            method="bounded",
            options={"xatol": 1e-9},
        )
        best = max(best, -peak.fun)
    return best


@pytest.mark.parametrize("loss", [0.02, 0.3, 0.95])
def test_the_score_is_that_of_the_likeliest_rates(loss):
    n = 9
    for b, c in zip(*tables(n), strict=True):

        def unlikely(q, b=b, c=c):
            logs = special.xlogy([b, c, n - b - c], [q + loss, q, max(1 - 2 * q - loss, 0.0)])
            return -logs.sum()

        bounds = (0, (1 - loss) / 2)
        peak = optimize.minimize_scalar(
            unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-10}
        )
        q = min([peak.x, *bounds], key=unlikely)  # the search stays off the ends
        expected = (b - c - n * loss) / np.sqrt(n * (2 * q + loss - loss**2))
        assert score(b, c, n, loss) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 10, 37, 120])
@pytest.mark.parametrize("loss", [0.001, 0.02, 0.3, 0.8, 0.999])
def test_the_score_rises_with_worse_and_falls_with_better(n, loss):
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    scores = score(b, c, n, loss)
    scores[b + c > n] = np.nan
    assert np.nanmin(np.diff(scores, axis=0)) > 0
    assert np.nanmax(np.diff(scores, axis=1)) < 0


@pytest.mark.parametrize(
    ("n", "loss", "seen"),
    [
        (1, 0.02, [(0, 0), (0, 1), (1, 0)]),
        (10, 0.02, [(0, 0), (0, 1), (0, 10), (1, 4), (5, 5), (10, 0)]),
        (10, 0.97, [(0, 0), (9, 0), (9, 1), (3, 3)]),
        (37, 0.05, [(0, 0), (1, 3), (2, 2), (0, 37), (10, 12)]),
        (60, 0.1, [(0, 0), (4, 3), (20, 30), (8, 2)]),
        (200, 0.02, [(0, 0), (1, 0), (3, 4), (40, 44), (12, 10)]),
    ],
)
def test_equals_the_enumeration_of_all_tables(n, loss, seen):
    for worse, better in seen:
        expected = enumerated_p_value(worse, better, n, loss)
        found = exact_p_value(worse, better, n, loss)
        assert found == pytest.approx(expected, rel=2e-5, abs=2e-6), (worse, better)


def test_the_largest_probability_holds_off_the_boundary_too():
    n, loss, (worse, better) = 60, 0.1, (4, 3)
    p_value = exact_p_value(worse, better, n, loss)
    b, c = tables(n)
    inside = score(b, c, n, loss) <= score(worse, better, n, loss) + 1e-8
    b, c = b[inside], c[inside]
    rng = np.random.default_rng(0)
    for p_b, p_c in rng.dirichlet([1, 1, 1], size=400)[:, :2]:
        if p_b - p_c >= loss:
            found = stats.multinomial.pmf(
                np.stack([b, c, n - b - c], axis=1), n, [p_b, p_c, 1 - p_b - p_c]
            ).sum()
            assert found <= p_value + 1e-9


@pytest.mark.parametrize(("better", "expected"), [(0, 0.13), (1, 0.04), (4, 0.007)])
def test_a_hundred_images_none_worse(better, expected):
    digits = 3 if expected < 0.01 else 2
    assert round(exact_p_value(0, better, 100, 0.02), digits) == expected


@pytest.mark.parametrize(("loss", "least"), [(0.02, 149), (0.01, 299)])
def test_how_many_images_without_a_change_pass(loss, least):
    assert exact_p_value(0, 0, least, loss) <= 0.05
    for n in (least - 1, least - 2, least // 2, 1):
        assert exact_p_value(0, 0, n, loss) == pytest.approx((1 - loss) ** n)
        assert exact_p_value(0, 0, n, loss) > 0.05


def test_the_ends():
    assert exact_p_value(0, 12, 12, 0.02) == pytest.approx(0.49**12)
    assert exact_p_value(12, 0, 12, 0.02) == pytest.approx(1.0)
    assert exact_p_value(0, 1, 1, 0.999) == pytest.approx(0.0005)
    assert exact_p_value(0, 600, 600, 0.02) == 0.0
    assert exact_p_value(2, 0, 3, 0.999) == pytest.approx(1 - 0.999**3, rel=1e-6)


def test_level_where_the_claim_is_just_false():
    # the guarantee, simulated: 0.05 plus 3 standard errors
    n, loss, draws = 150, 0.02, 1000
    rng = np.random.default_rng(4)
    for better_rate in (0.0, 0.002, 0.01, 0.05, 0.2):
        rates = [better_rate + loss, better_rate, 1 - 2 * better_rate - loss]
        drawn, times = np.unique(
            rng.multinomial(n, rates, size=draws)[:, :2], axis=0, return_counts=True
        )
        likely = score(drawn[:, 0], drawn[:, 1], n, loss) < -1  # p is far over .05 elsewhere
        passed = sum(
            count
            for (b, c), count in zip(drawn[likely].tolist(), times[likely], strict=True)
            if exact_p_value(b, c, n, loss) <= 0.05
        )
        assert passed / draws <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws), better_rate


@pytest.mark.parametrize(("n", "expected"), [(150, 0.32), (300, 0.56), (600, 0.83)])
def test_power_where_nothing_is_lost(n, expected):
    # 3 % of answers flip, half each way; the claim is 2 points
    drawn = np.random.default_rng(n).multinomial(n, [0.015, 0.015, 0.97], size=1000)[:, :2]
    unique, times = np.unique(drawn, axis=0, return_counts=True)
    passed = [exact_p_value(b, c, n, 0.02) <= 0.05 for b, c in unique.tolist()]
    assert (times @ np.array(passed)) / 1000 == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("n", [20, 150, 600])
def test_the_critical_score_parts_the_certified_tables(n):
    critical = critical_score(n, 0.02, 0.05)
    assert largest_tail(critical, n, 0.02) <= 0.05 < largest_tail(critical + 0.005, n, 0.02)


def test_the_probability_of_a_tail_is_that_of_its_tables():
    n, at_most = 40, -1.2
    b, c = tables(n)
    inside = score(b, c, n, 0.05) <= at_most
    table = np.stack([b, c, n - b - c], axis=1)[inside]
    for p_b, p_c in ((0.1, 0.2), (0.05, 0.0), (0.0, 0.5), (0.4, 0.6)):
        expected = stats.multinomial.pmf(table, n, [p_b, p_c, 1 - p_b - p_c]).sum()
        assert tail_probability(at_most, n, 0.05, p_b, p_c)[0] == pytest.approx(expected, abs=1e-9)


def test_fast():
    for n, counts, most in ((600, (100, 110), 0.05), (10_000, (2000, 1970), 1.0)):
        exact_p_value(*counts, n, 0.02)
        start = time.process_time()
        exact_p_value(*counts, n, 0.02)
        assert time.process_time() - start < most


@pytest.mark.parametrize(
    ("counts", "loss", "words"),
    [
        ((-1, 0, 10), 0.02, "-1 worse"),
        ((6, 5, 10), 0.02, "of 10 images"),
        ((0, 0, 0), 0.02, "at least 1"),
        ((0, 0, 10), 0.0, "loss 0.0"),
        ((0, 0, 10), 1.0, "outside"),
    ],
)
def test_wrong_numbers(counts, loss, words):
    with pytest.raises(ResPruneError, match=words):
        exact_p_value(*counts, loss)
