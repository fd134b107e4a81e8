import time

import numpy as np
import pytest
from scipy import stats

from resprune.errors import ResPruneError
from tuner.results.statistics import Intervals, mean_interval, standard_error


def flips(rng, images, questions, up, down, alike=0.15):
    """Differences of 0/1 scores, questions about one image alike; (values, images)."""
    share, scale = up + down, 1 / alike - 1
    chance = rng.beta(share * scale, (1 - share) * scale, (images, 1))
    hit = rng.random((images, questions)) < chance
    signs = np.where(rng.random(hit.shape) < up / share, 1.0, -1.0)
    return np.where(hit, signs, 0.0).ravel(), np.repeat(np.arange(images), questions)


def test_one_question_an_image_is_bonett_and_prices_interval_with_t():
    """Against their formula in the counts of flips."""
    for n, won, lost in ((40, 3, 7), (25, 0, 0), (200, 0, 4)):
        values = np.zeros(n)
        values[:won], values[won : won + lost] = 1, -1
        found = mean_interval(values, np.zeros(n), np.arange(n))
        up, down = (won + 1) / (n + 2), (lost + 1) / (n + 2)
        spread = up + down - (up - down) ** 2
        reach = stats.t(n - 1).ppf(0.975) * np.sqrt(spread / (n + 1))
        assert found.mean == pytest.approx((won - lost) / n)
        assert found.low == pytest.approx(up - down - reach)
        assert found.high == pytest.approx(up - down + reach)


def test_several_questions_an_image_are_scipys_t_with_the_made_up_images():
    """Equal sizes and nothing made up but a rounding: the t interval of the images' means."""
    values, images = flips(np.random.default_rng(0), 400, 50, 0.1, 0.2)
    found = mean_interval(values, np.zeros(len(values)), images)
    means = values.reshape(400, 50).mean(axis=1)
    low, high = stats.t.interval(0.95, 399, means.mean(), stats.sem(means))
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-4)


@pytest.mark.parametrize(
    ("images", "questions", "up", "down"),
    [(20, 1, 0.01, 0.03), (38, 8, 0.01, 0.03), (38, 1, 0.05, 0.1), (125, 8, 0.05, 0.1)],
)
def test_differences_are_covered(images, questions, up, down):
    """``benchmarks/intervals.py`` in short."""
    rng = np.random.default_rng(5)
    held = []
    for _ in range(600):
        values, labels = flips(rng, images, questions, up, down)
        interval = mean_interval(values, np.zeros(len(values)), labels)
        held.append(interval.low <= up - down <= interval.high)
    assert np.mean(held) >= 0.92


def test_five_questions_about_an_image_are_not_five_images():
    rng = np.random.default_rng(11)
    wide, narrow = [], []
    for _ in range(300):
        values, labels = flips(rng, 60, 5, 0.38, 0.02, alike=0.6)
        for held, clusters in ((wide, labels), (narrow, np.arange(len(values)))):
            interval = mean_interval(values, np.zeros(len(values)), clusters)
            held.append(interval.low <= 0.36 <= interval.high)
    assert np.mean(wide) >= 0.92
    assert np.mean(narrow) < 0.88


def test_scores_are_covered_near_the_end_of_their_range():
    rng = np.random.default_rng(3)
    held = []
    for _ in range(600):
        interval = mean_interval((rng.random(25) < 0.93).astype(float), None, np.arange(25))
        held.append(interval.low <= 0.93 <= interval.high)
        assert 0.0 <= interval.low < interval.high <= 1.0
    assert np.mean(held) >= 0.94


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-np.inf, np.inf)])
def test_nothing_has_zero_width(ends):
    for scores in ([1.0], [1.0, 1.0], [0.0, 0.0, 0.0]):
        one = mean_interval(scores, None, ["a"] * len(scores), ends=ends)
        assert one.high - one.low > 0.5
        same = mean_interval(scores, scores, ["a"] * len(scores), ends=ends)
        assert same.low < 0 < same.high
        assert np.isfinite([one.low, one.high, same.low, same.high]).all()


def test_no_flips_in_three_hundred_leave_what_three_hundred_can_tell():
    """About the rule of three: with none seen the rate may be 3 in n."""
    interval = mean_interval(np.ones(300), np.ones(300), np.arange(300))
    assert interval.mean == 0
    assert 2 / 300 < interval.high < 4 / 300


def test_an_interval_keeps_to_what_scores_can_be():
    """A share of none right in one image, and a loss of all."""
    none = mean_interval(np.zeros(8), None, ["a"] * 8)
    assert (none.low, none.high) == (0.0, 1.0)
    lost = mean_interval(np.zeros(3), np.ones(3), np.arange(3))
    assert lost.low == -1.0


def test_p_values_are_scipys_two_sided_ones_on_many_images():
    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], 20_000, p=[0.11, 0.78, 0.11])
    intervals = Intervals([str(i) for i in range(20_000)])
    for shift in (0.0, 0.005, 0.01):
        values[: int(shift * 20_000)] = 1.0
        found = intervals.estimate(values, np.zeros(20_000)).p_value
        assert found == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=0.01)


def test_log_likelihoods_end_at_zero_alone():
    values = np.random.default_rng(0).normal(-2.0, 1.0, 50)
    interval = mean_interval(values, None, np.arange(50), ends=(-np.inf, 0.0))
    low, high = stats.t.interval(0.95, 49, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.02)
    near = mean_interval(np.full(3, -0.1), None, np.arange(3), ends=(-np.inf, 0.0))
    assert near.low < -0.5
    assert near.high == 0.0


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(4)
    shared, images = rng.normal(size=200), np.repeat(np.arange(100), 2)
    shared -= 10
    alone = mean_interval(shared + 0.1, None, images, ends=(-np.inf, 0.0))
    paired = mean_interval(shared + 0.1, shared, images, ends=(-np.inf, 0.0))
    assert paired.mean == pytest.approx(0.1)
    assert paired.high - paired.low < (alone.high - alone.low) / 5


def test_standard_error_matches_theory():
    rng = np.random.default_rng(2)
    images = np.repeat(np.arange(400), 4)
    values = rng.normal(0, 1, 400)[images] + rng.normal(0, 0.5, 1600)
    expected = np.sqrt((1 + 0.25 / 4) / 400)  # variance between images + within / questions
    assert standard_error(values, None, images) == pytest.approx(expected, rel=0.1)
    assert standard_error([1.0, 0.0], None, ["a", "a"]) == 0.0


def test_standard_error_of_single_samples_is_the_textbook_one():
    values = np.random.default_rng(0).random(50)
    assert standard_error(values, None, np.arange(50)) == pytest.approx(stats.sem(values))


def test_images_need_not_stand_together_nor_be_of_one_size():
    rng = np.random.default_rng(3)
    images = np.array([f"image-{i}" for i in rng.integers(0, 12, 70)])
    values = rng.random(70)
    off = values - values.mean()
    sums = [off[images == name].sum() for name in sorted(set(images))]
    expected = np.sqrt(12 / 11 * np.sum(np.square(sums))) / 70
    assert standard_error(values, None, images) == pytest.approx(expected)


def test_each_group_has_its_own_images():
    images = [f"{i // 3}" for i in range(60)]
    groups = ["color" if i % 3 else "count" for i in range(60)]
    scores = np.random.default_rng(0).integers(0, 2, 60).astype(float)
    found = Intervals(images, groups).by_group(scores)
    for group in ("color", "count"):
        rows = [i for i in range(60) if groups[i] == group]
        assert found[group] == mean_interval(scores[rows], None, [images[i] for i in rows])


def test_a_hundred_rows_of_ten_thousand_samples_take_no_time():
    rng = np.random.default_rng(0)
    images = [f"image-{i // 8}" for i in range(10_000)]
    intervals = Intervals(images, [f"group-{i % 10}" for i in range(10_000)])
    rows = rng.integers(0, 2, (100, 10_000)).astype(float)
    begin = time.process_time()
    for row in rows:
        intervals.of(row)
        intervals.by_group(row)
    assert time.process_time() - begin < 3


@pytest.mark.parametrize(
    ("a", "b", "images", "message"),
    [
        ([], None, [], "at least 1"),
        ([1.0, 2.0], [1.0], [0, 1], r"\(2,\) and \(1,\)"),
        ([1.0, 2.0], None, [0], "one length"),
        ([1.0, np.nan], None, [0, 1], "not finite"),
    ],
)
def test_wrong_input(a, b, images, message):
    with pytest.raises(ResPruneError, match=message):
        mean_interval(a, b, images)
