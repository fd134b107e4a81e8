"""Residuals against least squares, rank correlations against scipy's."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tuner.surrogate.correlate import Resamples, at_once, distinct, within
from tuner.surrogate.measures import BASELINES, FORMS, measures


def residuals(tokens, order):
    """Squared distance of every row to the span of some, by least squares."""
    basis = tokens[order].T
    found = basis @ np.linalg.lstsq(basis, tokens.T, rcond=None)[0]
    return ((tokens.T - found) ** 2).sum(axis=0)


def test_measures_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    tokens, relevance = rng.normal(size=(20, 12)) * rng.uniform(0.5, 2, (20, 1)), rng.random(20)
    attention, order = rng.random(20), [4, 17, 2, 9, 11]
    found = measures(
        torch.tensor(tokens),
        torch.tensor(order),
        torch.tensor(relevance),
        2.0,
        torch.tensor(attention),
    )
    assert set(found) == {*FORMS, *BASELINES}
    energy = (tokens**2).sum(axis=1)
    left = [residuals(tokens, order[:k]).sum() / energy.sum() for k in range(1, 6)]
    weighted = (residuals(tokens, order) * relevance**2).sum() / (energy * relevance**2).sum()
    assert found["residual"] == pytest.approx(left[-1])
    assert found["area"] == pytest.approx(np.mean(left))
    assert found["weighted"] == pytest.approx(weighted)
    assert found["count"] == 5
    for name, values in (("norm", energy), ("relevance", relevance), ("attention", attention)):
        assert found[name] == pytest.approx(values[order].sum() / values.sum())
    same = measures(torch.tensor(tokens), torch.tensor(order), torch.ones(20), 1.0)
    assert same["weighted"] == pytest.approx(same["residual"])


@pytest.fixture
def table():
    """Nine plans of sixty samples about twenty images; some plans are there twice."""
    rng = np.random.default_rng(1)
    measure = rng.normal(size=(9, 60)).round(1)  # with ties
    outcome = measure + rng.normal(size=(9, 60))
    there = rng.random((9, 60)) < 0.8
    images = [f"image {i % 20}" for i in range(60)]
    return measure, outcome, there, images


def test_within_samples_it_is_scipys_rho(table):
    measure, outcome, there, _ = table
    outcome[:, 5] = 1.0  # tells no plan from another
    found = within(measure, outcome, there)
    for i in range(60):
        own = there[:, i]
        expected = np.nan if i == 5 else spearmanr(measure[own, i], outcome[own, i])[0]
        assert found[i] == pytest.approx(expected, nan_ok=True)


def test_over_all_it_is_scipys_rho_and_images_are_drawn_whole(table):
    measure, outcome, there, images = table
    resamples = Resamples(images, 200, 0)
    ((found,),) = at_once(measure[None], outcome[None], there, resamples)
    assert found.mean == pytest.approx(spearmanr(measure[there], outcome[there])[0])
    names = sorted(set(images))
    draws = []
    for weight in resamples.weights:
        columns = [
            i
            for name, w in zip(names, weight, strict=True)
            for i in np.flatnonzero([image == name for image in images]).tolist() * int(w)
        ]
        own = there[:, columns]
        draws.append(spearmanr(measure[:, columns][own], outcome[:, columns][own])[0])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_a_measure_that_knows_nothing_is_told_from_one_that_does(table):
    """Of 40 shuffled measures about two leave 0 outside a 95 % interval; the true one does."""
    measure, outcome, _, images = table
    there = np.ones_like(measure, dtype=bool)
    resamples, rng = Resamples(images, 400, 0), np.random.default_rng(2)
    mean, samples, groups = resamples.mean(within(measure, outcome, there))
    assert mean.low > 0.3
    assert (samples, groups) == (60, 20)
    outside = 0
    for _ in range(40):
        shuffled = rng.permuted(measure, axis=0)
        one, _, _ = resamples.mean(within(shuffled, outcome, there))
        outside += not one.low <= 0 <= one.high
    assert outside <= 6


def test_plans_that_keep_the_same_count_once():
    found = distinct([[b"a", b"x"], [b"b", b"x"], [b"a", b"y"]])
    assert found.tolist() == [[True, True], [True, False], [False, True]]
