import json

import numpy as np
import pytest
from tuner.alpha_fit import fit_alpha, grouped_folds
from tuner.alpha_models import fit_forest, fit_pairs, fit_ridge, forest_arrays, sklearn_forest
from tuner.compare import paired_bootstrap

from resprune.alpha import FEATURE_NAMES, AlphaPredictor
from resprune.errors import StudyError

F = len(FEATURE_NAMES)
ALPHAS = np.array([0.0, 0.25, 0.75, 2.0])
GAP, COLORS = FEATURE_NAMES.index("best_noun_gap"), FEATURE_NAMES.index("colors")
# error rates by class: one wants a large alpha, the other none
RATES = np.array([[0.45, 0.35, 0.25, 0.10], [0.15, 0.25, 0.40, 0.60]])


def outcomes(rng, rates):
    """0/1 errors that share each sample's luck over alphas, as real ones do."""
    luck = 0.7 * rng.random((len(rates), 1)) + 0.3 * rng.random(rates.shape)
    order = np.argsort(np.argsort(luck, axis=0), axis=0) / len(rates)  # uniform again
    return (order < rates).astype(float)


def population(seed, n=600, kind="shown"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, F))
    x[:, COLORS] = rng.integers(0, 2, n)
    label = (x[:, GAP] < 0.0).astype(int)
    if kind == "crossed":  # neither feature says anything alone
        label ^= x[:, COLORS].astype(int)
    x[:, GAP] += rng.normal(0, 0.3, n)
    if kind == "hidden":
        label = rng.integers(0, 2, n)
    return x, outcomes(rng, RATES[label]), np.arange(n) // 4


def gain(fit, budget, x, losses, clusters):
    predictor = fit.predictor
    fixed = np.searchsorted(ALPHAS, predictor.fixed_alpha(budget))
    chosen = np.searchsorted(ALPHAS, predictor.alphas_for(x, budget))
    adaptive = losses[np.arange(len(x)), chosen]
    return paired_bootstrap(losses[:, fixed], adaptive, clusters, seed=0)


@pytest.fixture(scope="module")
def shown():
    x, losses, clusters = population(0)
    return fit_alpha(x, {6: losses, 11: losses[::-1]}, ALPHAS, clusters, seed=0)


def test_two_classes_that_features_reveal_gain_on_new_samples(shown):
    assert shown.strengths[6] > 0
    new = gain(shown, 6, *population(1))
    assert new.low > 0.05
    weights = shown.feature_weights
    assert max(weights, key=weights.get) == "best_noun_gap"
    assert set(weights) == set(FEATURE_NAMES)


def test_a_budget_whose_losses_are_unrelated_falls_back(shown):
    # the second budget got the losses of other samples
    assert shown.strengths[11] == 0
    x, losses, clusters = population(2)
    assert gain(shown, 11, x, losses, clusters) == paired_bootstrap(
        np.zeros(len(x)), None, clusters, seed=0
    )


def test_a_crossing_of_two_features_is_found_and_not_by_sums(monkeypatch):
    x, losses, clusters = population(5, n=900, kind="crossed")
    new = population(6, n=900, kind="crossed")
    fit = fit_alpha(x, {6: losses}, ALPHAS, clusters, seed=0)
    found = gain(fit, 6, *new)
    assert found.low > 0.01
    (chosen,) = [row for row in fit.cv if row.chosen]
    assert chosen.candidate in ("pairs", "forest")
    monkeypatch.setattr("tuner.alpha_fit.CANDIDATES", {"ridge": fit_ridge})
    sums = fit_alpha(x, {6: losses}, ALPHAS, clusters, seed=0)
    assert gain(sums, 6, *new).high < found.low


def test_hidden_classes_do_not_lose_beyond_noise():
    fell_back, gains = 0, []
    for seed in range(6):
        x, losses, clusters = population(10 + seed, n=300, kind="hidden")
        fit = fit_alpha(x, {6: losses}, ALPHAS, clusters, seed=seed)
        fell_back += fit.strengths[6] == 0
        new = gain(fit, 6, *population(50 + seed, n=2000, kind="hidden"))
        gains.append(new.mean)
        assert new.high >= -0.005
    assert fell_back >= 4
    assert np.mean(gains) > -0.005


def test_cross_validation_foretells_the_gain(shown):
    (row,) = [r for r in shown.cv if r.chosen and r.budget == 6]
    new = gain(shown, 6, *population(7, n=3000))
    assert row.gain == pytest.approx(new.mean, abs=3 * row.standard_error)
    assert row.strength == shown.strengths[6]


def test_json_round_trip_is_exact(shown):
    text = json.dumps(shown.predictor.to_dict(), indent=2, allow_nan=False)
    again = AlphaPredictor.from_dict(json.loads(text))
    x, *_ = population(3)
    for budget in (6, 11):
        assert np.array_equal(again.losses(x, budget), shown.predictor.losses(x, budget))


def test_the_largest_regressor_stays_a_small_file():
    rng = np.random.default_rng(0)
    budgets, alphas = 4, 8
    x, y = rng.normal(size=(2500, F)), rng.normal(size=(2500, budgets * alphas))
    part = fit_forest(x, y, 0)
    parts = [part(slice(i * alphas, (i + 1) * alphas), 0.1) for i in range(budgets)]
    text = json.dumps([p.to_dict() for p in parts], indent=2)
    assert len(text) < 450_000


def test_same_seed_same_predictor():
    x, losses, clusters = population(4, n=200)
    fits = [fit_alpha(x, {6: losses}, ALPHAS, clusters, seed=3) for _ in range(2)]
    assert fits[0].predictor.to_dict() == fits[1].predictor.to_dict()
    assert fits[0].cv == fits[1].cv


def test_surrogate_is_fitted_on_and_never_decides():
    x, losses, clusters = population(8, n=160)
    truth = RATES[(x[:, GAP] < 0).astype(int)]
    helped = fit_alpha(x, {6: losses}, ALPHAS, clusters, seed=0, surrogate={6: 3 * truth})
    alone = fit_alpha(x, {6: losses}, ALPHAS, clusters, seed=0)
    new = population(9, n=2000)
    assert gain(helped, 6, *new).mean > gain(alone, 6, *new).mean
    # one that says the opposite must not turn the choice round
    against = fit_alpha(x, {6: losses}, ALPHAS, clusters, seed=0, surrogate={6: -losses})
    assert against.predictor.to_dict() == alone.predictor.to_dict()


def test_features_that_hardly_vary_are_left_out():
    x, losses, clusters = population(12, n=200)
    rare = FEATURE_NAMES.index("asks_who")
    x[:, rare] = 0
    x[:3, rare] = 1
    names = fit_alpha(x, {6: losses}, ALPHAS, clusters, seed=0).predictor.feature_names
    assert "asks_who" not in names
    assert "best_noun_gap" in names
    x[:] = 1.0  # nothing varies at all
    assert fit_alpha(x, {6: losses}, ALPHAS, clusters, seed=0).strengths == {6: 0.0}


def test_forest_equals_scikit_learn():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 9)), rng.normal(size=(400, 6))
    y[:, 0] += x[:, 0] * (x[:, 1] > 0)
    forest = sklearn_forest(len(x), seed=1).fit(x.astype(np.float32), y)
    new = rng.normal(size=(500, 9))
    new[:100] = x[rng.integers(0, 400, 100)]  # values at thresholds' sides
    mine = forest_arrays(forest, slice(2, 5)).predict(new)
    assert np.abs(mine - forest.predict(new)[:, 2:5]).max() < 2e-6
    assert np.ptp(mine, axis=0).min() > 0.1


def test_ridge_with_pairs_equals_scikit_learn():
    from sklearn.linear_model import RidgeCV

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 8)), rng.normal(size=(300, 4))
    y[:, 1] += 2 * x[:, 2] * x[:, 5]
    model = fit_pairs(x, y, 0)(slice(1, 3), 2.0)
    assert [2, 5] in model.pairs.tolist()
    expanded = np.hstack([x, np.stack([x[:, i] * x[:, j] for i, j in model.pairs], axis=1)])
    sklearn = RidgeCV(alphas=np.logspace(1.0, 4.5, 8)).fit(expanded, y)
    new = rng.normal(size=(50, 8))
    wide = np.hstack([new, np.stack([new[:, i] * new[:, j] for i, j in model.pairs], axis=1)])
    assert model.predict(new) == pytest.approx(2 * sklearn.predict(wide)[:, 1:3], abs=1e-10)


def test_predictor_equals_scikit_learn_end_to_end(shown):
    """The exported numbers reproduce a forest or ridge fitted here on the same targets."""
    from tuner.alpha_models import CANDIDATES

    x, losses, _ = population(0)
    (row,) = [r for r in shown.cv if r.chosen and r.budget == 6]
    z = shown.predictor.standardize(x)
    blocks = []
    for y in (losses, losses[::-1]):
        within = y - y.mean(axis=1, keepdims=True)
        blocks.append(within - within.mean(axis=0))
    sizes = [block.std() for block in blocks]
    targets = np.hstack([b / s for b, s in zip(blocks, sizes, strict=True)])
    deviations = CANDIDATES[row.candidate](z, targets, 0)(slice(0, 4), sizes[0]).predict(z)
    expected = losses.mean(axis=0) + row.strength * deviations
    assert shown.predictor.losses(x, 6) == pytest.approx(expected, abs=1e-9)


def test_folds_keep_images_whole_and_are_even():
    groups = np.repeat(np.arange(53), 3)
    folds = grouped_folds(groups, 5, seed=0)
    assert all(len(set(folds[groups == g])) == 1 for g in range(53))
    assert np.ptp(np.bincount(folds[::3])) <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((40, 3))}, r"features has shape \(40, 3\)"),
        ({"losses": {6: np.zeros((40, 2))}}, r"losses at budget 6 has shape \(40, 2\)"),
        ({"losses": {6: np.full((40, 4), np.nan)}}, "losses at budget 6 is not finite"),
        ({"losses": {}}, "no budget"),
        ({"alphas": [0.0]}, "rising grid"),
        ({"alphas": [0.0, 2.0, 1.0, 3.0]}, "rising grid"),
        ({"clusters": np.zeros(40, dtype=int)}, "1 images.*at least 10"),
        ({"clusters": np.arange(3)}, "images for 40 samples"),
        ({"surrogate": {7: np.zeros((40, 4))}}, "surrogate has budgets"),
    ],
)
def test_wrong_input(change, message):
    given = {
        "features": np.zeros((40, F)),
        "losses": {6: np.zeros((40, 4))},
        "alphas": ALPHAS,
        "clusters": np.arange(40),
        **change,
    }
    with pytest.raises(StudyError, match=message):
        fit_alpha(**given, seed=0)
