import copy
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resprune.alpha import FEATURE_NAMES, AlphaPredictor, form_digest, nearest_first
from resprune.budget import Count, Energy, Ratio
from resprune.errors import ConfigError

F = len(FEATURE_NAMES)
NAMES = ["noun_count", "colors", "map_gap"]
FORM = "what _ is the _"
COLUMNS = [FEATURE_NAMES.index(name) for name in NAMES]


def example():
    """A linear budget, a forest budget of two trees, and a fixed one."""
    return {
        "schema_version": 3,
        "forms": [form_digest(FORM), form_digest("is there a _")],
        "features": NAMES,
        "center": [1.0, 0.5, 0.2],
        "scale": [2.0, 0.5, 0.1],
        "low": [0.0, 0.0, 0.0],
        "high": [4.0, 2.0, 1.0],
        "arms": [{"alpha": 0.0}, {"alpha": 0.5}, {"alpha": 2.0}],
        "budgets": [
            {
                "budget": {"count": 6},
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
                "budget": {"count": 11},
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
            {
                "budget": {"ratio": 0.2},
                "mean_losses": [0.2, 0.1, 0.1],
                "strength": 0.0,
                "model": None,
            },
        ],
    }


def rows(*values):
    features = np.zeros((len(values), F))
    features[:, COLUMNS] = values
    return features


def arms_of(predictor, x, budget):
    """Arms of prompts of a known form."""
    return predictor.arms_for(x, [FORM] * len(x), budget)


def arm_of(predictor, row, budget):
    return arms_of(predictor, row[None], budget)[0]


@pytest.fixture
def predictor():
    return AlphaPredictor.from_dict(example())


def test_names_of_the_arms(predictor):
    assert predictor.arms == ({"alpha": 0.0}, {"alpha": 0.5}, {"alpha": 2.0})
    assert predictor.budgets == (Count(count=6), Count(count=11), Ratio(ratio=0.2))
    assert predictor.fallback(6) == predictor.fallback(Count(count=6)) == 1
    assert predictor.fallback(0.2) == 1  # of two equal, the earlier
    assert predictor.strength(6) == 0.5


def test_linear_by_hand(predictor):
    # (3, 1, .3) standardised is (1, 1, 1); the pair is 1 * 1
    losses = predictor.losses(rows((3.0, 1.0, 0.3)), 6)
    deviation = np.array([0.1 - 0.2 + 0.3 + 0.01, 0.1 + 0.05, -0.1 + 0.2 - 0.3 - 0.01])
    assert losses[0] == pytest.approx(np.array([0.5, 0.3, 0.4]) + 0.5 * deviation)
    assert arm_of(predictor, rows((3.0, 1.0, 0.3))[0], 6) == 2


def test_forest_by_hand(predictor):
    x = rows((0, 0.5, 0), (0, 1.0, 0.2), (0, 1.0, 0.9))
    tree = np.array([[0.2, 0, 0], [0, 0, 0], [0, 0.1, -0.6]])
    expected = np.array([0.3, 0.3, 0.5]) + (tree + np.array([0.02, 0, 0])) / 2
    assert predictor.losses(x, 11) == pytest.approx(expected)
    assert arms_of(predictor, x, 11).tolist() == [1, 1, 2]
    assert arms_of(predictor, x, 11).dtype == np.int64


def test_strength_zero_is_the_best_fixed_arm_for_everyone(predictor):
    x = np.random.default_rng(0).normal(size=(50, F)) * 10
    assert set(arms_of(predictor, x, 0.2)) == {1}


def test_tie_goes_to_the_arm_nearest_the_best_fixed_one():
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
    assert arm_of(AlphaPredictor.from_dict(data), np.zeros(F), 6) == 0
    data["arms"][1] = {"alpha": 1.5}
    assert arm_of(AlphaPredictor.from_dict(data), np.zeros(F), 6) == 2


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
    with pytest.raises(ConfigError, match=r"here.*no budget 22;.*6, 11, 0\.2"):
        predictor.require_budget(22, "here")
    data = example()
    data["budgets"][2]["budget"] = {"ratio": 1.0}
    ratio = AlphaPredictor.from_dict(data)
    ratio.require_budget(1.0)
    with pytest.raises(ConfigError, match="no budget 1;"):
        ratio.require_budget(1)


def test_wrong_width_of_features(predictor):
    with pytest.raises(ConfigError, match="prompt_features"):
        predictor.losses(np.zeros((2, 3)), 6)


def schema_2():
    """The example as the schema before wrote it: without forms."""
    data = example()
    data["schema_version"] = 2
    del data["forms"]
    return data


def schema_1():
    """The example as the first schema wrote it: a grid of alphas, numbers as budgets."""
    data = schema_2()
    data["schema_version"] = 1
    data["alphas"] = [arm["alpha"] for arm in data.pop("arms")]
    for entry, budget in zip(data["budgets"], (6, 11, 0.2), strict=True):
        entry["budget"] = budget
    return data


def put(data, path, value):
    at = data
    for key in path[:-1]:
        at = at[key]
    if value is KeyError:
        del at[path[-1]]
    else:
        at[path[-1]] = value


def edited(path, value):
    data = copy.deepcopy(example())
    put(data, path, value)
    return data


@pytest.mark.parametrize("before", [schema_1, schema_2])
def test_earlier_schemas_read_as_the_same_predictor_without_forms(predictor, before):
    old = AlphaPredictor.from_dict(json.loads(json.dumps(before())))
    assert old.to_dict() == {**predictor.to_dict(), "forms": None}
    assert old.to_dict()["schema_version"] == 3
    again = AlphaPredictor.from_dict(json.loads(json.dumps(old.to_dict())))
    # they keep clipping: nothing is outside, whatever is asked
    far = rows((1e9, -5.0, 1e9), (3.0, 1.0, 0.3))
    for each in (old, again):
        assert not each.outside(far, ["never seen", ""]).any()
        least = each.losses(far, 6).argmin(axis=1)
        assert each.arms_for(far, ["never seen", ""], 6).tolist() == least.tolist() == [2, 2]


def test_a_prompt_outside_what_was_fitted_gets_the_best_fixed_arm(predictor):
    inside = (3.0, 1.0, 0.3)  # arm 2 at budget 6; the fallback is arm 1
    asked = [
        (inside, FORM, False),
        (inside, "is there a _", False),
        (inside, "tell me the _", True),
        (inside, "", True),
        ((0.0, 0.0, 0.0), FORM, False),  # at the edges of all ranges
        ((4.0, 2.0, 1.0), FORM, False),
        ((4.19, 1.0, 0.3), FORM, False),  # 5 % of 4 beyond
        ((4.21, 1.0, 0.3), FORM, True),
        ((3.0, -0.09, 0.3), FORM, False),
        ((3.0, -0.11, 0.3), FORM, True),
        ((3.0, 1.0, 1e300), FORM, True),
    ]
    x = rows(*(values for values, _, _ in asked))
    forms = [form for _, form, _ in asked]
    expected = [outside for _, _, outside in asked]
    assert predictor.outside(x, forms).tolist() == expected
    least = predictor.losses(x, 6).argmin(axis=1)
    assert set(least[:4]) == {2}
    arms = predictor.arms_for(x, forms, 6)
    assert arms.tolist() == [1 if out else arm for out, arm in zip(expected, least, strict=True)]


def test_a_feature_out_of_use_is_not_looked_at(predictor):
    x = rows((3.0, 1.0, 0.3))
    x[:, FEATURE_NAMES.index("log_words")] = 1e6
    assert not predictor.outside(x, [FORM])[0]


def test_a_feature_that_never_varied_may_differ_by_rounding_alone():
    data = example()
    data["low"][0] = data["high"][0] = 2.0
    predictor = AlphaPredictor.from_dict(data)
    x = rows((2.0 + 1e-12, 1.0, 0.3), (2.001, 1.0, 0.3))
    assert predictor.outside(x, [FORM] * 2).tolist() == [False, True]


def test_a_missing_image_is_not_outside_the_range_of_the_map():
    data = example()
    data["low"][2] = 0.15  # a flat map has a gap of 0
    predictor = AlphaPredictor.from_dict(data)
    x = rows((3.0, 1.0, 0.0), (3.0, 1.0, 0.0))
    x[0, FEATURE_NAMES.index("map_missing")] = 1
    assert predictor.outside(x, [FORM] * 2).tolist() == [False, True]


def test_as_many_forms_as_rows(predictor):
    with pytest.raises(ConfigError, match="1 question forms for 2 rows"):
        predictor.arms_for(np.zeros((2, F)), [FORM], 6)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("alphas",), KeyError, "alphas: must be a rising grid, not None"),
        (("alphas",), [0.0, 2.0, 0.5], "alphas: must be a rising grid"),
        (("alphas", 2), 99.0, r"arms\[2\]: alpha must lie within 0 to 16, not 99"),
        (("alphas", 2), 0.5, "alphas: must be a rising grid"),
        (("alphas", 2), None, "alphas: must be a rising grid"),
        (("alphas", 1), True, r"arms\[1\].alpha: expected a number"),
        (("budgets", 2, "budget"), 2.5, r"budgets\[2\].budget: 2.5 is not a budget"),
    ],
)
def test_wrong_files_of_schema_1(path, value, message):
    data = schema_1()
    put(data, path, value)
    with pytest.raises(ConfigError, match=message):
        AlphaPredictor.from_dict(data)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_alpha_arms_are_what_schema_1_chose(seed, data):
    """An independent reading of schema 1 in plain Python: clip, scale, predict, round, choose."""
    rng = np.random.default_rng(seed)
    grid = np.sort(rng.choice(np.arange(65) / 16, size=rng.integers(1, 9), replace=False))
    outputs, coarse = len(grid), data.draw(st.booleans())  # coarse numbers give many ties
    weights, bias = rng.normal(size=(4, outputs)), rng.normal(size=outputs)
    means = np.round(rng.random(outputs), 1)
    if coarse:
        weights, bias = np.round(weights), np.round(bias)
    file = schema_1()
    file["alphas"] = grid.tolist()
    entry = file["budgets"][0]
    entry |= {"mean_losses": means.tolist(), "strength": data.draw(st.sampled_from([0.25, 0.5, 1]))}
    entry["model"] |= {"weights": weights.tolist(), "bias": bias.tolist()}
    file["budgets"] = [entry]
    predictor = AlphaPredictor.from_dict(file)

    x = rng.integers(-2, 6, size=(20, F)) / 2 if coarse else rng.normal(size=(20, F))
    x[:, FEATURE_NAMES.index("map_missing")] = 0
    z = np.clip(x[:, COLUMNS], file["low"], file["high"])
    z = np.ascontiguousarray((z - np.array(file["center"])) / np.array(file["scale"]))
    z = np.hstack([z, z[:, [0]] * z[:, [2]]])
    losses = means + entry["strength"] * (z @ weights + bias)
    assert np.array_equal(predictor.losses(x, 6), losses)
    fixed = grid[means.argmin()]
    for row, chosen in zip(losses, arms_of(predictor, x, 6), strict=True):
        least = min(np.round(row, 12))
        tied = [alpha for alpha, loss in zip(grid, np.round(row, 12), strict=True) if loss == least]
        assert grid[chosen] == min(tied, key=lambda alpha: (abs(alpha - fixed), alpha))


def test_nearest_of_wider_arms_counts_names_before_numbers():
    arms = [
        {"alpha": 0.0, "seed_strategy": "l2_norm"},
        {"alpha": 2.0, "seed_strategy": "l2_norm"},
        {"alpha": 0.0, "seed_strategy": "relevance"},
        {"alpha": 0.5, "seed_strategy": "relevance"},
        {"alpha": 1.0, "seed_strategy": "relevance"},
    ]
    assert nearest_first(arms, 3).tolist() == [3, 2, 4, 0, 1]
    assert nearest_first(arms, 0).tolist() == [0, 1, 2, 3, 4]
    assert nearest_first(arms[::-1], 4).tolist() == [4, 3, 2, 1, 0]


def test_wider_arms_and_energy_budgets():
    data = example()
    seeds = ("l2_norm", "relevance")
    data["arms"] = [{"alpha": a, "seed_strategy": s} for s in seeds for a in (0, 0.5, 2)]
    entry = {"budget": {"energy": 0.05, "most": 98}, "mean_losses": [0.5, 0.4, 0.5, 0.4, 0.4, 0.4]}
    linear = {"kind": "linear", "pairs": [], "weights": [[0.0] * 6] * 3}
    # all but the fallback and arm 3 are tied for the least
    linear["bias"] = [-0.2, 0.0, -0.2, 0.0, -0.1, -0.1]
    data["budgets"] = [{**entry, "strength": 1.0, "model": linear}]
    predictor = AlphaPredictor.from_dict(json.loads(json.dumps(data)))
    budget = Energy(energy=0.05, most=98)
    assert predictor.budgets == (budget,)
    assert predictor.arms[4] == {"alpha": 0.5, "seed_strategy": "relevance"}
    assert predictor.fallback(budget) == 1
    # alpha 0 is 0.5 away with the fallback's seed; arm 4 has its alpha and another seed
    assert arm_of(predictor, np.zeros(F), budget) == 0
    again = AlphaPredictor.from_dict(json.loads(json.dumps(predictor.to_dict())))
    assert again.to_dict() == predictor.to_dict()


LINEAR, FOREST = ("budgets", 0, "model"), ("budgets", 1, "model")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 4, "schema_version 4 is newer.*upgrade"),
        (("schema_version",), "1", "schema_version: .*integer.*'1'"),
        (("arms",), KeyError, "key 'arms' is missing"),
        (("forms",), KeyError, "key 'forms' is missing"),
        (("forms",), ["what _ is the _"], r"forms\[0\]: "),
        (("forms", 0), "0123456789ABCDEF", r"forms\[0\]: "),
        (("arm",), [1], "unknown key 'arm'. Did you mean 'arms'"),
        (("arms",), [], "arms: .*at least 1"),
        (("arms",), [{"alpha": i / 8} for i in range(65)], "arms: .*at most 64"),
        (("arms", 0), {}, r"arms\[0\]: .*at least 1"),
        (("arms", 2), {"alpha": 0.5}, "arms: lists .*0.5.* twice"),
        (("arms", 2), {"alpha": 99.0}, r"arms\[2\]: alpha must lie within 0 to 16, not 99"),
        (("arms", 2), {"alpha": "big"}, r"arms\[2\]: alpha must lie within 0 to 16, not 'big'"),
        (("arms", 2), {"alpha": True}, r"arms\[2\].alpha: expected a number or a name, got True"),
        (("arms", 2), {"alpha": 10**400}, r"arms\[2\].alpha: expected a number or a name"),
        (("arms", 2), {"alfa": 2.0}, "arms: .*'alfa'.* other options than .*'alpha'"),
        (("arms", 2), {"alpha": 2.0, "seed_strategy": "none"}, "arms: .*other options"),
        (("arms",), [{"alpha": 0.0}, {"alpha": 0.5}], r"budgets\[0\].mean_losses: expected 2 num"),
        (("features",), ["noun_count", "colours", "map_gap"], r"features\[1\]: .*mean 'colors'"),
        (("features",), ["colors"] * 3, "features: expected distinct"),
        (("features",), [], "features: .*at least 1"),
        (("scale",), [1.0, 0.0, 1.0], "scale: must be at least"),
        (("scale",), [1.0, float("nan"), 1.0], r"scale\[1\]: .*finite number, not nan"),
        (("center",), [1.0, 1e300, 1.0], r"center\[1\]: .*not 1e\+300"),
        (("center",), [1.0], "center: expected 3 numbers"),
        (("low",), [9.0, 0.0, 0.0], "low: must not exceed high"),
        (("budgets",), {}, "budgets: .*list"),
        (("budgets", 0), 6, r"budgets\[0\]: .*not 6"),
        (("budgets", 0, "budget"), True, r"budgets\[0\].budget: True is not a budget"),
        (("budgets", 0, "budget"), 0, r"budgets\[0\].budget: 0 is not a budget"),
        (("budgets", 0, "budget"), {"count": 0}, r"budgets\[0\].budget: count: .*not 0"),
        (("budgets", 0, "budget"), {"count": 11}, "budgets: lists a budget twice"),
        (("budgets", 0, "strength"), 1.5, r"budgets\[0\].strength: .*equal to 1, not 1.5"),
        (("budgets", 0, "model"), None, r"budgets\[0\]: model: missing.* strength is 0.5"),
        ((*LINEAR, "kind"), "network", r"budgets\[0\].model: .*kind 'network'.*forest, linear"),
        ((*LINEAR, "kind"), [1], r"budgets\[0\].model: .*kind \[1\]"),
        ((*LINEAR, "weigths"), 1, r"budgets\[0\].model: unknown key 'weigths'.*'weights'"),
        ((*LINEAR, "pairs"), [[0, 3]], "pairs: expected integers 0 to 2"),
        ((*LINEAR, "pairs"), [[0, 1, 2]], "pairs: expected 1 x 2"),
        ((*LINEAR, "pairs"), [[0, 1]] * 2001, "pairs: .*at most 2000"),
        ((*LINEAR, "pairs"), [[0, 1], [0, 2]], "weights: expected 5 x 3 numbers"),
        ((*LINEAR, "weights"), [[1.0] * 3] * 3 + [[1.0]], "weights: rows have unequal lengths"),
        ((*LINEAR, "weights"), [[1.0] * 2] * 4, "weights: expected 4 x 3 numbers, got 4 x 2"),
        ((*LINEAR, "bias", 0), True, r"bias\[0\]: .*number, not True"),
        ((*FOREST, "feature", 2), 3, "feature: expected integers -1 to 2"),
        ((*FOREST, "feature", 2), -2, r"feature\[2\]: .*equal to -1"),
        ((*FOREST, "feature", 2), 1.0, r"feature\[2\]: .*integer"),
        ((*FOREST, "right"), [0, 4], "right: node 2 is not in pre-order"),
        ((*FOREST, "right"), [2, 1], "right: node 4 is not in pre-order"),
        ((*FOREST, "right"), [2, 99], "right: node 4 is not in pre-order"),
        ((*FOREST, "right"), [2, 5], "right: node 4 is not in pre-order"),
        ((*FOREST, "right"), [2], "right: expected 2 numbers, got 1"),
        ((*FOREST, "roots"), [0, 4], "right: "),
        ((*FOREST, "roots"), [0, 0], "roots: must start at 0 and rise"),
        ((*FOREST, "roots"), [1, 5], "roots: must start at 0"),
        ((*FOREST, "roots"), [0], "right: "),
        ((*FOREST, "roots"), [0, 5, 6], "roots: expected integers 0 to 5"),
        ((*FOREST, "roots"), [], "roots: .*at least 1"),
        ((*FOREST, "values"), [[0.0] * 3] * 3, "values: expected 4 x 3"),
        ((*FOREST, "threshold"), [0.0], "threshold: expected 2 numbers"),
    ],
)
def test_wrong_files_say_where(path, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        AlphaPredictor.from_dict(edited(path, value), where="alpha_predictor.json")
    assert "alpha_predictor.json" in str(caught.value)
    assert "export the config again" in str(caught.value)


@pytest.mark.parametrize("data", [None, 3, "x", [], [[]]])
def test_a_file_that_is_no_object(data):
    with pytest.raises(ConfigError, match=r"here: .*dictionary"):
        AlphaPredictor.from_dict(data, where="here")


def places(data, path=()):
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["linear", "forest", "colors", "alpha", "count", 10**400, -(10**400)])
)
ANYTHING = (
    SCALARS
    | st.lists(st.integers(-2, 6), max_size=7)
    | st.lists(st.lists(SCALARS, max_size=4), max_size=4)
    | st.dictionaries(st.sampled_from(["kind", "count", "energy", "alpha", "x"]), SCALARS)
    | st.just(KeyError)
)


def read_and_ask(data):
    """Read data and ask it everything; it must be refused or answer in range."""
    try:
        predictor = AlphaPredictor.from_dict(data)
    except ConfigError:
        return
    x = np.random.default_rng(0).normal(size=(8, F))
    x[0], x[1] = 1e300, -1e300
    for budget in predictor.budgets:
        assert np.isfinite(predictor.losses(x, budget)).all()
        arms = predictor.arms_for(x, [FORM, ""] * 4, budget)
        assert ((arms >= 0) & (arms < len(predictor.arms))).all()


@settings(deadline=None, max_examples=300)
@given(path=st.sampled_from(list(places(example()))), value=ANYTHING)
def test_any_edit_is_refused_or_still_gives_an_arm(path, value):
    read_and_ask(edited(path, value))


@settings(deadline=None, max_examples=300)
@given(data=st.data(), first=st.sampled_from([example(), schema_1()]))
def test_any_edits_of_any_schema_are_refused_or_still_give_an_arm(data, first):
    mutant = copy.deepcopy(first)
    for _ in range(data.draw(st.integers(1, 6))):
        found = list(places(mutant))
        if found:
            put(mutant, data.draw(st.sampled_from(found)), data.draw(ANYTHING))
    read_and_ask(mutant)


@settings(deadline=None, max_examples=300)
@given(
    feature=st.lists(st.integers(-1, 2), max_size=9),
    roots=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    data=st.data(),
)
def test_only_forests_whose_walk_ends_are_read(feature, roots, data):
    nodes, inner = len(feature), sum(column >= 0 for column in feature)
    right = data.draw(st.lists(st.integers(0, nodes), min_size=inner, max_size=inner))
    forest = {
        "kind": "forest",
        "roots": roots,
        "feature": feature,
        "threshold": [0.0] * inner,
        "right": right,
        "values": [[0.0] * 3] * (nodes - inner),
    }
    children = dict(zip([i for i, c in enumerate(feature) if c >= 0], right, strict=True))

    def end(node):
        """Where the tree that starts at a node ends, by recursion; None where it is no tree."""
        if node is None or node >= nodes:
            return None
        if node not in children:
            return node + 1
        return end(children[node]) if end(node + 1) == children[node] else None

    bounds = [*roots, nodes]
    fine = roots[0] == 0 and all(end(a) == b for a, b in itertools.pairwise(bounds))
    try:
        AlphaPredictor.from_dict(edited(FOREST, forest))
    except ConfigError:
        assert not fine
    else:
        assert fine
