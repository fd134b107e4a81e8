import json

import numpy as np
import pytest

from resprune.alpha import FEATURE_NAMES, AlphaPredictor, form_digest
from resprune.budget import Count
from resprune.errors import StudyError
from tuner.alpha import fit_alpha
from tuner.alpha.candidates import (
    CANDIDATES,
    fit_forest,
    fit_pairs,
    forest_arrays,
    sklearn_forest,
)
from tuner.alpha.cross_validation import grouped_folds
from tuner.results.statistics import mean_interval, standard_error

F = len(FEATURE_NAMES)
SIX, ELEVEN = Count(count=6), Count(count=11)
ALPHAS = [{"alpha": alpha} for alpha in (0.0, 0.25, 0.75, 2.0)]
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


def forms_of(n):
    """Twenty wordings, which tell nothing."""
    return [f"what _ is {i % 20}" for i in range(n)]


def fitted(x, losses, arms, clusters, **more):
    return fit_alpha(x, losses, arms, clusters, **{"forms": forms_of(len(x)), **more})


def gain(fit, budget, x, losses, clusters):
    predictor = fit.predictor
    fixed = predictor.fallback(budget)
    adaptive = losses[np.arange(len(x)), predictor.arms_for(x, forms_of(len(x)), budget)]
    return mean_interval(losses[:, fixed], adaptive, clusters)


@pytest.fixture(scope="module")
def shown():
    x, losses, clusters = population(0)
    return fitted(x, {SIX: losses, ELEVEN: losses[::-1]}, ALPHAS, clusters, seed=0)


def test_two_classes_that_features_reveal_gain_on_new_samples(shown):
    assert shown.strengths[SIX] > 0
    new = gain(shown, SIX, *population(1))
    assert new.low > 0.05
    weights = shown.feature_weights
    assert max(weights, key=weights.get) == "best_noun_gap"
    assert set(weights) == set(FEATURE_NAMES)


def test_a_budget_whose_losses_are_unrelated_falls_back(shown):
    # the second budget got the losses of other samples
    assert shown.strengths[ELEVEN] == 0
    x, losses, clusters = population(2)
    one = losses[:, 0]
    assert gain(shown, ELEVEN, x, losses, clusters) == mean_interval(one, one, clusters)


def test_a_crossing_of_two_features_is_found_and_not_by_sums(monkeypatch):
    x, losses, clusters = population(5, n=900, kind="crossed")
    new = population(6, n=900, kind="crossed")
    fit = fitted(x, {SIX: losses}, ALPHAS, clusters, seed=0)
    found = gain(fit, SIX, *new)
    assert found.low > 0.01
    (chosen,) = [row for row in fit.cv if row.chosen]
    assert chosen.candidate in ("pairs", "forest")
    for name in ("pairs", "forest"):
        monkeypatch.delitem(CANDIDATES, name)
    sums = fitted(x, {SIX: losses}, ALPHAS, clusters, seed=0)
    assert gain(sums, SIX, *new).high < found.low


def test_wider_arms_gain_where_only_the_seed_strategy_tells_the_classes_apart():
    wide = [{**arm, "seed_strategy": seed} for seed in ("l2_norm", "relevance") for arm in ALPHAS]

    def crossed(seed):
        x, _, clusters = population(seed)
        label = x[:, GAP] < 0
        rates = np.full((len(x), 8), 0.4)  # alpha says nothing; each class has its own seed
        rates[label, :4] -= 0.3
        rates[~label, 4:] -= 0.3
        return x, outcomes(np.random.default_rng(seed + 100), rates), clusters

    x, losses, clusters = crossed(0)
    new_x, new_losses, new_clusters = crossed(1)
    fit = fitted(x, {SIX: losses}, wide, clusters, seed=0)
    assert list(fit.predictor.arms) == wide
    assert gain(fit, SIX, new_x, new_losses, new_clusters).low > 0.05
    alone = fitted(x, {SIX: losses[:, :4]}, ALPHAS, clusters, seed=0)
    assert gain(alone, SIX, new_x, new_losses[:, :4], new_clusters).high < 0.05


def test_cross_validation_equals_loops_over_folds(monkeypatch):
    """Out-of-fold gains of ridge, with scikit-learn, one sample and strength at a time."""
    from sklearn.linear_model import RidgeCV

    for name in ("pairs", "forest"):
        monkeypatch.delitem(CANDIDATES, name)
    x, losses, clusters = population(3, n=200)
    forms = np.arange(200) % 20
    fit = fitted(x, {SIX: losses}, ALPHAS, clusters, seed=7)
    alphas = [arm["alpha"] for arm in ALPHAS]

    def gains_of(groups):
        """Each fold from the folds before it, then the other way round: 2 x 4 x N, or nan."""
        gains = np.full((2, 4, len(x)), np.nan)
        fold_of = np.random.default_rng(7).permutation(groups.max() + 1) % 5
        for direction, order in enumerate(([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])):
            for place in (1, 2, 3, 4):
                train = np.isin(fold_of[groups], order[:place])
                center, scale = x[train].mean(axis=0), x[train].std(axis=0)
                low, high = x[train].min(axis=0), x[train].max(axis=0)
                z = (np.clip(x, low, high) - center) / scale
                means = losses[train].mean(axis=0)
                within = losses[train] - losses[train].mean(axis=1, keepdims=True)
                target = within - within.mean(axis=0)
                size = target.std()
                used = scale > 0
                assert used.sum() >= F - 1
                ridge = RidgeCV(alphas=np.logspace(1.0, 4.5, 8)).fit(z[train], target / size)
                deviations = ridge.predict(z) * size
                fixed = int(means.argmin())
                for s, strength in enumerate((0.25, 0.5, 0.75, 1.0)):
                    for i in np.flatnonzero(fold_of[groups] == order[place]):
                        predicted = np.round(means + strength * deviations[i], 12)
                        best = min(
                            range(4),
                            key=lambda a: (predicted[a], abs(alphas[a] - alphas[fixed]), a),
                        )
                        gains[direction, s, i] = losses[i, fixed] - losses[i, best]
        return gains

    assert [row.strength for row in fit.cv] == [0.25, 0.5, 0.75, 1.0]
    for groups, evidence in (
        (clusters, [row.by_image for row in fit.cv]),
        (forms, [row.by_wording for row in fit.cv]),
    ):
        gains = gains_of(
            np.unique([str(group) for group in groups], return_inverse=True)[1]
            if groups is forms
            else groups
        )
        assert [e.gain for e in evidence] == pytest.approx(np.nanmean(gains, axis=2).mean(axis=0))
        errors = []
        for s in range(4):
            known = [~np.isnan(gains[d, s]) for d in (0, 1)]
            each = [standard_error(gains[d, s, k], None, groups[k]) for d, k in enumerate(known)]
            errors.append(np.mean(each))
        assert [e.standard_error for e in evidence] == pytest.approx(errors)
        assert max(e.gain for e in evidence) > 0


def test_cross_validation_foretells_the_gain(shown):
    (row,) = [r for r in shown.cv if r.chosen and r.budget == SIX]
    new = gain(shown, SIX, *population(7, n=3000))
    for evidence in (row.by_image, row.by_wording):
        assert evidence.shown
        assert evidence.gain == pytest.approx(new.mean, abs=3 * evidence.standard_error)
    assert row.strength == shown.strengths[SIX]


def test_features_that_say_nothing_are_seldom_adopted(monkeypatch):
    """At most 5 % of fits, any budget; the rule before it adopted in a third of these."""
    for name in ("pairs", "forest"):  # ridge is fast
        monkeypatch.delitem(CANDIDATES, name)
    adopted, alone = 0, 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x, losses, clusters = population(1000 + seed, n=200, kind="hidden")
        other = outcomes(rng, np.tile(RATES.mean(axis=0), (200, 1)))
        fit = fitted(x, {SIX: losses, ELEVEN: other}, ALPHAS, clusters, seed=seed)
        adopted += any(fit.strengths.values())
        alone += any(r.by_image.gain > 1.64 * r.by_image.standard_error for r in fit.cv)
    assert adopted <= 10  # of 100 at 5 %: more once in a hundred
    assert alone > adopted


def by_wording(seed, wordings, n=600):
    """Each wording wants its own end of the arms, and features tell wordings apart by chance."""
    rng = np.random.default_rng(seed)
    form = rng.permutation(np.arange(n) % wordings)
    x = rng.normal(size=(wordings, F))[form] + 0.3 * rng.normal(size=(n, F))
    label = (np.arange(wordings) % 2)[form]
    return x, outcomes(rng, RATES[label]), np.arange(n) // 4, [f"what _ is {i}" for i in form]


def test_what_holds_for_each_wording_alone_is_not_adopted():
    x, losses, clusters, forms = by_wording(0, 40)
    fit = fit_alpha(x, {SIX: losses}, ALPHAS, clusters, forms=forms, seed=0)
    assert max(row.by_image.gain for row in fit.cv if row.by_image.shown) > 0.05
    assert fit.strengths == {SIX: 0.0}
    assert fit.reasons[SIX].startswith("no gain that is shown by image is shown by wording too at")
    assert not any(row.chosen for row in fit.cv)


@pytest.mark.parametrize(("wordings", "adopted"), [(1, True), (2, False), (9, False), (10, True)])
def test_few_wordings_show_nothing_and_a_single_one_is_all_that_is_served(wordings, adopted):
    x, losses, clusters = population(0)
    forms = [f"what _ is {i % wordings}" for i in range(len(x))]
    fit = fit_alpha(x, {SIX: losses}, ALPHAS, clusters, forms=forms, seed=0)
    assert (fit.strengths[SIX] > 0) == adopted
    assert (fit.reasons[SIX] == "") == adopted
    if not adopted:
        assert fit.reasons[SIX].startswith(f"too few wordings: {wordings} question forms")
    if wordings < 10:
        assert all(row.by_wording is None for row in fit.cv)
    new = np.random.default_rng(1).normal(size=(50, F))
    assert fit.predictor.outside(new, ["which _ is it"] * 50).all()
    fallback = fit.predictor.fallback(SIX)
    assert set(fit.predictor.arms_for(new, ["which _ is it"] * 50, SIX)) == {fallback}


def test_few_images_show_nothing():
    x, losses, _ = population(0)
    fit = fitted(x, {SIX: losses}, ALPHAS, np.arange(600) % 19, seed=0)
    assert fit.strengths == {SIX: 0.0}
    assert fit.reasons[SIX] == "too few images: 19, and a gain is shown with 20 or more"
    assert fitted(x, {SIX: losses}, ALPHAS, np.arange(600) % 60, seed=0).strengths[SIX] > 0


def test_a_budget_that_is_not_adopted_says_why(shown):
    assert shown.reasons[SIX] == ""
    assert shown.reasons[ELEVEN].startswith("no gain by image is shown at 95%")


def test_known_forms_are_stored_as_digests(shown):
    assert shown.predictor.data.forms == sorted({form_digest(form) for form in forms_of(600)})


def test_json_round_trip_is_exact(shown):
    text = json.dumps(shown.predictor.to_dict(), indent=2, allow_nan=False)
    again = AlphaPredictor.from_dict(json.loads(text))
    x, *_ = population(3)
    for budget in (SIX, ELEVEN):
        assert np.array_equal(again.losses(x, budget), shown.predictor.losses(x, budget))


def test_the_largest_regressor_stays_a_small_file():
    rng = np.random.default_rng(0)
    budgets, alphas = 4, 8
    x, y = rng.normal(size=(2500, F)), rng.normal(size=(2500, budgets * alphas))
    part = fit_forest(x, y, 0)
    parts = [part(slice(i * alphas, (i + 1) * alphas), 0.1) for i in range(budgets)]
    text = json.dumps([p.model_dump() for p in parts], indent=2)
    assert len(text) < 450_000


def test_same_seed_same_predictor():
    x, losses, clusters = population(4, n=200)
    fits = [fitted(x, {SIX: losses}, ALPHAS, clusters, seed=3) for _ in range(2)]
    assert fits[0].predictor.to_dict() == fits[1].predictor.to_dict()
    assert fits[0].cv == fits[1].cv


def test_surrogate_is_fitted_on_and_never_decides():
    x, losses, clusters = population(8, n=320)
    truth = RATES[(x[:, GAP] < 0).astype(int)]
    helped = fitted(x, {SIX: losses}, ALPHAS, clusters, seed=0, surrogate={SIX: 3 * truth})
    alone = fitted(x, {SIX: losses}, ALPHAS, clusters, seed=0)
    new = population(9, n=2000)
    assert gain(helped, SIX, *new).mean > gain(alone, SIX, *new).mean
    # one that says the opposite must not turn the choice round
    against = fitted(x, {SIX: losses}, ALPHAS, clusters, seed=0, surrogate={SIX: -losses})
    assert against.predictor.to_dict() == alone.predictor.to_dict()


def test_features_that_hardly_vary_are_left_out():
    x, losses, clusters = population(12, n=200)
    rare = FEATURE_NAMES.index("asks_who")
    x[:, rare] = 0
    x[:3, rare] = 1
    names = fitted(x, {SIX: losses}, ALPHAS, clusters, seed=0).predictor.data.features
    assert "asks_who" not in names
    assert "best_noun_gap" in names
    x[:] = 1.0  # nothing varies at all
    assert fitted(x, {SIX: losses}, ALPHAS, clusters, seed=0).strengths == {SIX: 0.0}


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
    x, losses, _ = population(0)
    (row,) = [r for r in shown.cv if r.chosen and r.budget == SIX]
    z = shown.predictor.standardize(x)
    blocks = []
    for y in (losses, losses[::-1]):
        within = y - y.mean(axis=1, keepdims=True)
        blocks.append(within - within.mean(axis=0))
    sizes = [block.std() for block in blocks]
    targets = np.hstack([b / s for b, s in zip(blocks, sizes, strict=True)])
    deviations = CANDIDATES[row.candidate](z, targets, 0)(slice(0, 4), sizes[0]).predict(z)
    expected = losses.mean(axis=0) + row.strength * deviations
    assert shown.predictor.losses(x, SIX) == pytest.approx(expected, abs=1e-9)


def test_folds_keep_images_whole_and_are_even():
    groups = np.repeat(np.arange(53), 3)
    folds = grouped_folds(groups, 5, seed=0)
    assert all(len(set(folds[groups == g])) == 1 for g in range(53))
    assert np.ptp(np.bincount(folds[::3])) <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((40, 3))}, r"features has shape \(40, 3\)"),
        ({"losses": {SIX: np.zeros((40, 2))}}, r"losses at budget 6 has shape \(40, 2\)"),
        ({"losses": {SIX: np.full((40, 4), np.nan)}}, "losses at budget 6 is not finite"),
        ({"losses": {}}, "no budget"),
        ({"arms": ALPHAS[:1]}, "1 arms leave nothing to choose.*2 or more"),
        ({"arms": []}, "0 arms leave nothing"),
        ({"arms": [*ALPHAS[:3], {"alpha": 0.25}]}, "arms: lists .*0.25.* twice"),
        ({"arms": [*ALPHAS[:3], {"alpha": 17.0}]}, r"arms: \[3\]: alpha must lie within 0 to 16"),
        ({"arms": [*ALPHAS[:3], {"seed_strategy": "none"}]}, "arms: .*other options"),
        ({"clusters": np.zeros(40, dtype=int)}, "1 images.*at least 10"),
        ({"clusters": np.arange(3)}, "images for 40 samples"),
        ({"forms": ["what"] * 3}, "3 question forms for 40 samples"),
        ({"surrogate": {ELEVEN: np.zeros((40, 4))}}, "surrogate has budgets 11, losses have 6"),
    ],
)
def test_wrong_input(change, message):
    given = {
        "features": np.zeros((40, F)),
        "losses": {SIX: np.zeros((40, 4))},
        "arms": ALPHAS,
        "clusters": np.arange(40),
        "forms": forms_of(40),
        **change,
    }
    with pytest.raises(StudyError, match=message):
        fit_alpha(**given, seed=0)
