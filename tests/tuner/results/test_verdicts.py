"""Verdicts of a whole report: rarely wrong, and none from a handful of images."""

import time
from fractions import Fraction

import numpy as np
import pytest

from tuner.results.statistics import Intervals
from tuner.results.verdicts import Pair, holm, judge


def by_hand(p_values):
    """Holm: reject the smallest as long as it is at most .05 over the number still left."""
    left = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    while left and p_values[left[0]] <= Fraction(5, 100) / len(left):
        rejected.add(left.pop(0))
    return [i in rejected for i in range(len(p_values))]


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),
        ([0.02, 0.02], [True, True]),
        ([0.03, 0.001, 0.03], [False, True, False]),
        ([], []),
    ],
)
def test_holm_on_known_cases(p_values, expected):
    assert holm(np.array(p_values)) == expected == by_hand(p_values)


def test_holm_equals_doing_it_by_hand():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p_values = rng.uniform(0, 0.1, rng.integers(1, 12)) ** 2 * 5
        assert holm(p_values) == by_hand(p_values.tolist())


def equal(rng, images, questions, policies=13):
    """0/1 scores of policies that are equally good; questions about one image are alike."""

    def normal(*shape):
        return np.sqrt(0.15) * rng.normal(size=(*shape, images, 1)) + np.sqrt(0.85) * rng.normal(
            size=(*shape, images, questions)
        )

    own = rng.uniform(0.02, 0.2, (policies, 1, 1))
    latent = np.sqrt(1 - own) * normal() + np.sqrt(own) * normal(policies)
    return (latent < 1.5).astype(float).reshape(policies, -1)


def report_of(scores):
    """Everything against the first, the last two against all others."""
    pairs = {(i, 0): Pair(scores[i], scores[0], "x") for i in range(1, len(scores))}
    for i in (len(scores) - 2, len(scores) - 1):
        pairs |= {(i, j): Pair(scores[i], scores[j], "x") for j in range(1, len(scores) - 2)}
    return pairs


@pytest.mark.parametrize(("images", "questions"), [(20, 8), (125, 8), (125, 1)])
def test_a_report_of_equal_policies_is_rarely_wrong(images, questions):
    rng = np.random.default_rng(images)
    intervals = Intervals([str(i) for i in np.repeat(np.arange(images), questions)])
    wrong, alone = 0, 0
    for _ in range(200):
        judged = judge(report_of(equal(rng, images, questions)), intervals).values()
        wrong += any(one.verdict in ("better", "worse") for one in judged)
        alone += any(one.low > 0 or one.high < 0 for one in judged)
    assert wrong <= 0.05 * 200
    assert alone > wrong  # each interval alone would have been wrong more often


def test_a_true_difference_is_found_and_its_direction():
    rng = np.random.default_rng(0)
    scores = equal(rng, 300, 1)
    worse = scores[0].copy()
    worse[:40] = 0
    pairs = report_of(scores) | {
        "down": Pair(worse, scores[0], "all tokens"),
        "up": Pair(scores[0], worse, "less"),
    }
    judged = judge(pairs, Intervals([str(i) for i in range(300)]))
    assert (judged["down"].verdict, judged["down"].against) == ("worse", "all tokens")
    assert (judged["up"].verdict, judged["up"].against) == ("better", "less")
    assert judged["down"].mean == pytest.approx((worse - scores[0]).mean())


def test_the_interval_is_the_plain_one_and_never_says_less_than_the_verdict():
    scores = equal(np.random.default_rng(1), 200, 2)
    scores[3, ::7] = 0
    intervals = Intervals([str(i) for i in np.repeat(np.arange(200), 2)])
    for key, one in judge(report_of(scores), intervals).items():
        plain = intervals.of(scores[key[0]], scores[key[1]])
        assert (one.low, one.mean, one.high) == (plain.low, plain.mean, plain.high)
        if one.verdict in ("better", "worse"):
            assert one.low > 0 or one.high < 0


@pytest.mark.parametrize("images", [1, 5, 19])
def test_few_images_get_no_verdict_however_large_the_difference(images):
    labels = [str(i) for i in np.repeat(np.arange(images), 8)]
    pair = Pair(np.ones(len(labels)), np.zeros(len(labels)), "x")
    assert judge({"a": pair}, Intervals(labels))["a"].verdict == "too few images"
    enough = [*labels, *(str(i) for i in range(images, 20))]
    pair = Pair(np.ones(len(enough)), np.zeros(len(enough)), "x")
    assert judge({"a": pair}, Intervals(enough))["a"].verdict == "better"


def test_no_flips_are_within_noise():
    same = np.ones(500)
    one = judge({"a": Pair(same, same, "x")}, Intervals([str(i) for i in range(500)]))["a"]
    assert one.verdict == "within noise"
    assert one.low < 0 < one.high


def test_five_hundred_pairs_of_ten_thousand_samples_are_judged_at_once():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (100, 10_000)).astype(float)
    pairs = {(i, j): Pair(rows[i], rows[j], "x") for i in range(100) for j in range(i % 5, 5)}
    intervals = Intervals([str(i // 8) for i in range(10_000)])
    begin = time.process_time()
    judge(pairs, intervals)
    assert time.process_time() - begin < 3
