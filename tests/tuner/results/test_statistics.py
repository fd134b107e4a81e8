import numpy as np
import pytest

from resprune.errors import ResPruneError
from tuner.results.schema import Interval
from tuner.results.statistics import paired_bootstrap, standard_error


def population(rng, images, per_image, effect):
    clusters = np.repeat(np.arange(images), per_image)
    values = effect + rng.normal(0, 1, images)[clusters] + rng.normal(0, 0.5, len(clusters))
    return values, clusters


def test_equals_a_loop_over_resamples():
    rng = np.random.default_rng(3)
    clusters = np.array([f"image-{i}" for i in rng.integers(0, 12, 70)])
    a, b = rng.random(70), rng.random(70)
    interval = paired_bootstrap(a, b, clusters, seed=5, resamples=400)

    by_image = [(a - b)[clusters == name] for name in sorted(set(clusters))]
    draws = np.random.default_rng(5).integers(len(by_image), size=(400, len(by_image)))
    means = [np.concatenate([by_image[i] for i in row]).mean() for row in draws]
    assert interval.mean == pytest.approx((a - b).mean())
    assert interval.low == pytest.approx(np.quantile(means, 0.025))
    assert interval.high == pytest.approx(np.quantile(means, 0.975))


def test_chunks_do_not_change_the_draws(monkeypatch):
    values, clusters = population(np.random.default_rng(0), 30, 3, 0.1)
    whole = paired_bootstrap(values, None, clusters, seed=1, resamples=300)
    monkeypatch.setattr("tuner.results.statistics._CHUNK", 30 * 70)
    assert paired_bootstrap(values, None, clusters, seed=1, resamples=300) == whole


def test_coverage_on_clustered_data_and_not_without_clusters():
    rng = np.random.default_rng(11)
    covered, naive = 0, 0
    runs = 300
    for seed in range(runs):
        values, clusters = population(rng, 60, 5, 0.2)
        interval = paired_bootstrap(values, None, clusters, seed=seed, resamples=400)
        covered += interval.low <= 0.2 <= interval.high
        single = np.arange(len(values))
        interval = paired_bootstrap(values, None, single, seed=seed, resamples=400)
        naive += interval.low <= 0.2 <= interval.high
    assert 0.90 <= covered / runs <= 0.98
    assert naive / runs < 0.8  # five questions about an image are not five images


def test_standard_error_matches_theory_and_bootstrap():
    rng = np.random.default_rng(2)
    values, clusters = population(rng, 400, 4, 0.0)
    expected = np.sqrt((1 + 0.25 / 4) / 400)  # variance between images + within / questions
    assert standard_error(values, None, clusters) == pytest.approx(expected, rel=0.1)
    interval = paired_bootstrap(values, None, clusters, seed=0)
    width = (interval.high - interval.low) / (2 * 1.96)
    assert standard_error(values, None, clusters) == pytest.approx(width, rel=0.08)


def test_standard_error_of_single_samples_is_the_textbook_one():
    values = np.random.default_rng(0).random(50)
    expected = values.std(ddof=1) / np.sqrt(50)
    assert standard_error(values, None, np.arange(50)) == pytest.approx(expected)


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(4)
    shared, clusters = population(rng, 100, 2, 0.0)
    difference = paired_bootstrap(shared + 0.1, shared, clusters, seed=0)
    assert difference.low == pytest.approx(0.1)
    assert difference.high == pytest.approx(0.1)


def test_one_image_is_its_own_interval():
    interval = paired_bootstrap([1.0, 0.0], None, ["a", "a"], seed=0)
    assert interval == Interval(mean=0.5, low=0.5, high=0.5)
    assert standard_error([1.0, 0.0], None, ["a", "a"]) == 0.0


def test_same_seed_same_interval():
    values, clusters = population(np.random.default_rng(0), 20, 2, 0.0)
    first, again, other = (paired_bootstrap(values, None, clusters, seed=s) for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("a", "b", "clusters", "message"),
    [
        ([], None, [], "at least 1"),
        ([1.0, 2.0], [1.0], [0, 1], r"\(2,\) and \(1,\)"),
        ([1.0, 2.0], None, [0], "one length"),
        ([1.0, np.nan], None, [0, 1], "not finite"),
    ],
)
def test_wrong_input(a, b, clusters, message):
    with pytest.raises(ResPruneError, match=message):
        paired_bootstrap(a, b, clusters, seed=0)
