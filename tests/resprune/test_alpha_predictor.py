import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resprune.alpha import FEATURE_NAMES, AlphaPredictor
from resprune.errors import ConfigError

F = len(FEATURE_NAMES)
NAMES = ["noun_count", "colors", "map_gap"]
COLUMNS = [FEATURE_NAMES.index(name) for name in NAMES]


def example():
    """A linear budget, a forest budget of two trees, and a fixed one."""
    return {
        "schema_version": 1,
        "features": NAMES,
        "center": [1.0, 0.5, 0.2],
        "scale": [2.0, 0.5, 0.1],
        "low": [0.0, 0.0, 0.0],
        "high": [4.0, 2.0, 1.0],
        "alphas": [0.0, 0.5, 2.0],
        "budgets": [
            {
                "budget": 6,
                "mean_losses": [0.5, 0.3, 0.4],
                "strength": 0.5,
                "model": {
                    "kind": "linear",
                    "pairs": [[0, 2]],
                    "weights": [[0.1, 0.0, -0.1], [-0.2, 0.0, 0.2], [0.3, 0.1, -0.3], [0, 0.05, 0]],
                    "bias": [0.01, 0.0, -0.01],
                },
            },
            {
                "budget": 11,
                "mean_losses": [0.3, 0.3, 0.5],
                "strength": 1.0,
                "model": {
                    "kind": "forest",
                    "roots": [0, 5],
                    # tree 0: colors? (leaf, (map_gap? leaf, leaf)); tree 1: a single leaf
                    "feature": [1, -1, 2, -1, -1, -1],
                    "threshold": [0.0, 0.5],
                    "right": [2, 4],
                    "values": [[0.2, 0, 0], [0, 0, 0], [0, 0.1, -0.6], [0.02, 0, 0]],
                },
            },
            {"budget": 0.2, "mean_losses": [0.2, 0.1, 0.1], "strength": 0.0, "model": None},
        ],
    }


def rows(*values):
    features = np.zeros((len(values), F))
    features[:, COLUMNS] = values
    return features


@pytest.fixture
def predictor():
    return AlphaPredictor.from_dict(example())


def test_names_of_the_grid(predictor):
    assert predictor.alphas.tolist() == [0.0, 0.5, 2.0]
    assert predictor.budgets == (6, 11, 0.2)
    assert predictor.fixed_alpha(6) == 0.5
    assert predictor.fixed_alpha(0.2) == 0.5  # of two equal, the smaller
    assert predictor.strength(6) == 0.5


def test_linear_by_hand(predictor):
    # (3, 1, .3) standardised is (1, 1, 1); the pair is 1 * 1
    losses = predictor.losses(rows((3.0, 1.0, 0.3)), 6)
    deviation = np.array([0.1 - 0.2 + 0.3 + 0.01, 0.1 + 0.05, -0.1 + 0.2 - 0.3 - 0.01])
    assert losses[0] == pytest.approx(np.array([0.5, 0.3, 0.4]) + 0.5 * deviation)
    assert predictor.alpha(rows((3.0, 1.0, 0.3))[0], 6) == 2.0


def test_forest_by_hand(predictor):
    x = rows((0, 0.5, 0), (0, 1.0, 0.2), (0, 1.0, 0.9))
    tree = np.array([[0.2, 0, 0], [0, 0, 0], [0, 0.1, -0.6]])
    expected = np.array([0.3, 0.3, 0.5]) + (tree + np.array([0.02, 0, 0])) / 2
    assert predictor.losses(x, 11) == pytest.approx(expected)
    assert predictor.alphas_for(x, 11).tolist() == [0.5, 0.5, 2.0]


def test_strength_zero_is_the_fixed_alpha_for_everyone(predictor):
    x = np.random.default_rng(0).normal(size=(50, F)) * 10
    assert set(predictor.alphas_for(x, 0.2)) == {0.5}


def test_tie_goes_to_the_alpha_nearest_the_fixed_one():
    data = example()
    budget = data["budgets"][0]
    budget["mean_losses"] = [0.4, 0.3, 0.4]
    budget["strength"] = 1.0
    # on the only unclipped direction: colors at its mean makes all three deviations 0 but one
    budget["model"] = {
        "kind": "linear",
        "pairs": [],
        "weights": [[0.0] * 3] * 3,
        "bias": [-0.1, 0.1, -0.1],
    }
    # 0.3, 0.4, 0.3: alpha 0 is 0.5 from the fixed 0.5, alpha 2 is 1.5
    assert AlphaPredictor.from_dict(data).alpha(np.zeros(F), 6) == 0.0
    data["alphas"] = [0.0, 1.5, 2.0]
    assert AlphaPredictor.from_dict(data).alpha(np.zeros(F), 6) == 2.0


def test_features_are_clipped_to_what_fitting_saw(predictor):
    far = predictor.losses(rows((1e9, -5.0, 1e9)), 6)
    assert np.array_equal(far, predictor.losses(rows((4.0, 0.0, 1.0)), 6))


def test_missing_image_uses_the_mean_map_unless_fitting_saw_missing_images(predictor):
    x = rows((3.0, 1.0, 0.0))
    x[:, FEATURE_NAMES.index("map_missing")] = 1
    assert np.array_equal(predictor.losses(x, 6), predictor.losses(rows((3.0, 1.0, 0.2)), 6))
    data = example()
    data["features"] = ["noun_count", "map_missing", "map_gap"]
    saw_missing = AlphaPredictor.from_dict(data)
    changed = x.copy()
    changed[:, FEATURE_NAMES.index("map_gap")] = 0.9
    assert not np.array_equal(saw_missing.losses(x, 6), saw_missing.losses(changed, 6))


def test_json_round_trip_is_exact(predictor):
    again = AlphaPredictor.from_dict(json.loads(json.dumps(predictor.to_dict())))
    x = np.random.default_rng(1).normal(size=(200, F))
    for budget in predictor.budgets:
        assert np.array_equal(again.losses(x, budget), predictor.losses(x, budget))
    assert again.to_dict() == predictor.to_dict()


def test_unknown_budget_lists_the_fitted_ones(predictor):
    predictor.require_budget(6)
    with pytest.raises(ConfigError, match=r"here.*no budget 22.*6, 11, 0\.2"):
        predictor.require_budget(22, "here")
    data = example()
    data["budgets"][2]["budget"] = 1.0
    ratio = AlphaPredictor.from_dict(data)
    ratio.require_budget(1.0)
    with pytest.raises(ConfigError, match="no budget 1;"):
        ratio.require_budget(1)


def test_wrong_width_of_features(predictor):
    with pytest.raises(ConfigError, match="prompt_features"):
        predictor.losses(np.zeros((2, 3)), 6)


def edited(path, value):
    data = copy.deepcopy(example())
    at = data
    for key in path[:-1]:
        at = at[key]
    if value is KeyError:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


LINEAR, FOREST = ("budgets", 0, "model"), ("budgets", 1, "model")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 2, "schema_version 2 is newer.*upgrade"),
        (("schema_version",), "1", "schema_version: expected a number"),
        (("alphas",), KeyError, "alphas: missing"),
        (("alfas",), [1], "unknown key 'alfas'. Did you mean 'alphas'"),
        (("alphas",), [0.0, 2.0, 0.5], "alphas: must be a rising"),
        (("alphas",), [0.0, 0.5, 99.0], "alphas: must lie within 0 to 16"),
        (("alphas",), [0.0, 0.5], r"budgets\[0\]: mean_losses: expected 2 numbers"),
        (("features",), ["noun_count", "colours", "map_gap"], "Did you mean 'colors'"),
        (("features",), ["colors"] * 3, "features: expected distinct"),
        (("features",), [], "features: expected a list"),
        (("scale",), [1.0, 0.0, 1.0], "scale: must be at least"),
        (("scale",), [1.0, float("nan"), 1.0], "scale: expected numbers"),
        (("center",), [1.0, 1e300, 1.0], "center: expected numbers"),
        (("center",), [1.0], "center: expected 3 numbers"),
        (("low",), [9.0, 0.0, 0.0], "low: must not exceed high"),
        (("budgets",), {}, "budgets: expected a list"),
        (("budgets", 0), 6, r"budgets\[0\]: expected a JSON object"),
        (("budgets", 0, "budget"), True, r"budgets\[0\]: budget: expected a count"),
        (("budgets", 0, "budget"), 0, "budget: expected a count"),
        (("budgets", 0, "budget"), 11, "budgets: lists a budget twice"),
        (("budgets", 0, "strength"), 1.5, "strength: expected a number from 0 to 1, got 1.5"),
        (("budgets", 0, "model"), None, "model: missing although strength is 0.5"),
        ((*LINEAR, "kind"), "network", r"budgets\[0\].model: kind: 'network'.*forest, linear"),
        ((*LINEAR, "kind"), [1], "kind: "),
        ((*LINEAR, "pairs"), [[0, 3]], "pairs: expected integers 0 to 2"),
        ((*LINEAR, "pairs"), [[0, 1], [0, 2]], "weights: expected 5 x 3 numbers"),
        ((*LINEAR, "weights"), [[1.0] * 3] * 3 + [[1.0]], "weights: expected 4 x 3.*a row"),
        ((*LINEAR, "bias", 0), True, "bias: expected numbers"),
        ((*FOREST, "feature", 2), 3, "feature: expected integers -1 to 2"),
        ((*FOREST, "feature", 2), 1.0, "feature: expected integers"),
        ((*FOREST, "right"), [0, 4], "right: node 2 is not in pre-order"),
        ((*FOREST, "right"), [2, 1], "right: node 4 is not in pre-order"),
        ((*FOREST, "right"), [2, 99], "right: expected integers 0 to 5"),
        ((*FOREST, "roots"), [0, 4], "right: "),
        ((*FOREST, "roots"), [0, 0], "roots: must start at 0 and rise"),
        ((*FOREST, "roots"), [1, 5], "roots: must start at 0"),
        ((*FOREST, "roots"), [0], "right: "),
        ((*FOREST, "values"), [[0.0] * 3] * 3, "values: expected 4 x 3"),
        ((*FOREST, "threshold"), [0.0], "threshold: expected 2 numbers"),
    ],
)
def test_wrong_files_say_where(path, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        AlphaPredictor.from_dict(edited(path, value), where="alpha_predictor.json")
    assert "alpha_predictor.json" in str(caught.value)


def places(data, path=()):
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@settings(deadline=None, max_examples=300)
@given(
    path=st.sampled_from(list(places(example()))),
    value=st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(-2, 6), max_size=7)
    | st.just({})
    | st.just(10**400),
)
def test_any_edit_is_refused_or_still_gives_an_alpha_of_the_grid(path, value):
    try:
        predictor = AlphaPredictor.from_dict(edited(path, value))
    except ConfigError:
        return
    x = np.random.default_rng(0).normal(size=(8, F))
    for budget in predictor.budgets:
        assert np.isfinite(predictor.losses(x, budget)).all()
        assert np.isin(predictor.alphas_for(x, budget), predictor.alphas).all()
