"""The ``[search]`` table: options by method, and what is said of wrong ones."""

import pytest

from resprune import PruningConfig
from resprune.errors import ConfigError, StudyError
from tuner.search.section import Range
from tuner.study import study_from_dict


def study(**search):
    splits = {name: {"split": name, "samples": 1} for name in ("tune", "report")}
    return study_from_dict(
        {
            "study": {"name": "s"},
            "backbone": {"model": "nano-llava"},
            "task": {"name": "nano-scenes", **splits},
            "search": {"budget": [22, 6], **search},
        },
        where="my.toml",
    )


def options(**search):
    return study(**search).search.options


STRATEGIES = ("cls_attention", "l2_norm")
ALPHA = Range(low=0.0, high=4.0, step=0.05)


def test_the_default_is_resprune_alone_over_its_own_ranges():
    assert study().search.method == ("resprune",)
    assert options() == {"resprune": {"alpha": ALPHA, "seed_strategy": STRATEGIES}}


def test_each_method_has_its_own_options_and_an_option_asked_for_joins():
    assert options(method=["resprune", "visionzip", "uniform"], pooling=["max", "mean"]) == {
        "resprune": {"alpha": ALPHA, "seed_strategy": STRATEGIES, "pooling": ("max", "mean")},
        "visionzip": {"contextual": Range(low=0.0, high=0.5, step=1 / 32)},
        "uniform": {},
    }


@pytest.mark.parametrize("first", ["key", "table"])
def test_a_table_of_a_method_goes_before_the_key_of_all(first):
    given = {"pooling": ["mean"], "cdpruner": {"pooling": ["max"]}}
    order = given if first == "key" else dict(reversed(given.items()))
    found = options(method=["resprune", "cdpruner", "relevance"], **order)
    assert found["cdpruner"] == {"pooling": ("max",)}
    assert found["resprune"]["pooling"] == found["relevance"]["pooling"] == ("mean",)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, (1.5,)),
        ([0, 2], (0.0, 2.0)),
        ({"high": 2}, Range(low=0.0, high=2.0, step=0.05)),
        ({"low": 0.5, "high": 1.0, "step": 0.25}, Range(low=0.5, high=1.0, step=0.25)),
    ],
)
def test_ranges_and_values(value, expected):
    assert options(alpha=value)["resprune"]["alpha"] == expected


def test_it_reads_back_what_it_writes():
    search = study(
        method=["resprune", "visionzip"], alpha=[0.0, 1.0], visionzip={"contextual": 0.25}
    ).search
    written = search.model_dump(mode="json")
    assert written["visionzip"] == {"contextual": [0.25]}
    assert study(**written).search == search


@pytest.mark.parametrize(
    ("search", "message"),
    [
        # an option that a method does not have
        ({"alhpa": [0.0]}, "'alhpa': no option of the methods resprune. Did you mean 'alpha'"),
        ({"contextual": [0.1]}, "'contextual': no option of the methods resprune. Allowed: alpha"),
        (
            {"method": ["visionzip"], "visionzip": {"contextul": [0.1]}},
            "'visionzip.contextul': no option of the method 'visionzip'. Did you mean 'contextual'",
        ),
        (
            {"method": ["resprune", "visionzip"], "visionzip": {"alpha": [0.1]}},
            "'visionzip.alpha': no option of the method 'visionzip'. Allowed: contextual",
        ),
        (
            {"method": ["pool"], "pool": {"alpha": [0.1]}},
            "'pool.alpha': no option of the method 'pool'. It has none",
        ),
        # a range outside the method's
        ({"alpha": {"low": -1, "high": 2}}, r"alpha: .*equal to 0, not -1\.0 .*'resprune'"),
        ({"alpha": [0, 16.5]}, r"alpha: .*equal to 16, not 16\.5"),
        ({"alpha": {"low": 0, "high": 17}}, r"alpha: .*equal to 16, not 17\.0"),
        (
            {"method": ["visionzip"], "visionzip": {"contextual": {"high": 1.5}}},
            r"visionzip\.contextual: .*less than 1, not 1\.5 .*'visionzip'",
        ),
        ({"alpha": {"low": 2, "high": 1}}, r"alpha: low 2\.0 is not below high 1\.0"),
        ({"alpha": {"lo": 2, "high": 3}}, "alpha: unknown key 'lo'. Did you mean 'low'"),
        ({"alpha": {"low": 0, "high": 1, "step": 0}}, "alpha: step: .*greater than 0, not 0"),
        ({"alpha": {"low": "0"}}, "alpha: low: .*valid number, not '0'"),
        ({"alpha": {"low": float("nan")}}, "alpha: .*finite number, not nan"),
        ({"alpha": True}, "alpha: .*not True"),
        ({"alpha": []}, "alpha: an empty list"),
        ({"alpha": [0.5, 0.5]}, "alpha: .*lists a value twice"),
        ({"seed_strategy": ["cls_atention"]}, "seed_strategy: .*Did you mean 'cls_attention'"),
        ({"seed_strategy": {"low": 0}}, r"seed_strategy: a range of names; list some of \['cls"),
        ({"pooling": ["maxx"]}, "pooling: .*Did you mean 'max'"),
        ({"positions": ["kep"]}, r"search\.positions\[0\]: .*Did you mean 'keep'"),
        ({"positions": []}, r"search\.positions: an empty list"),
        # methods
        ({"method": ["resprun"]}, "unknown method 'resprun'. Did you mean 'resprune'"),
        ({"method": []}, r"search\.method: an empty list"),
        ({"method": ["resprune", "resprune"]}, r"search\.method: .*lists a value twice"),
        ({"method": ["unpruned"]}, "'unpruned' is measured in every study; leave it out"),
        (
            {"visionzip": {"contextual": [0.1]}},
            r"\[search\.visionzip\]: the method 'visionzip' is not searched; add it to "
            r"search\.method, or remove the table",
        ),
        ({"visionzp": {"contextual": [0.1]}}, "unknown key 'visionzp'.*Did you mean 'visionzip'"),
        ({"resprune": 3}, r"resprune: 3 is no table; write \[search\.resprune\]"),
        # energies
        ({"budget": [{"energy": 0.0, "most": 9}]}, r"budget\[0\]: energy: .*than 0, not 0\.0"),
        ({"budget": [6, {"energy": 1.0, "most": 9}]}, r"budget\[1\]: energy: .*than 1, not 1\.0"),
        ({"budget": [{"energy": 0.1}]}, r"search\.budget\[0\]: key 'most' is missing"),
        (
            {"budget": [{"energy": 0.1, "most": 4, "least": 9}]},
            r"search\.budget\[0\]: least 9 is over most 4",
        ),
        ({"budget": [{"enrgy": 0.1, "most": 4}]}, r"budget\[0\]: .*Did you mean 'energy'"),
        (
            {"method": ["resprune", "visionzip"], "budget": [{"energy": 0.1, "most": 9}]},
            r"search\.budget: energy 0\.1 \(1 to 9\): the method 'visionzip' has no energy "
            "budgets.*give a count or a ratio",
        ),
        # counts and ratios
        ({"budget": [0]}, r"search\.budget\[0\]: 0 is not a budget; give a count"),
        ({"budget": [-4]}, "-4 is not a budget"),
        ({"budget": [1.5]}, r"1\.5 is not a budget"),
        ({"budget": [True]}, "True is not a budget"),
        ({"budget": [6, 6]}, "lists a value twice"),
        ({"budget": []}, r"search\.budget is missing"),
    ],
)
def test_wrong_values_name_the_file_the_place_and_the_fix(search, message):
    with pytest.raises(StudyError, match=message) as caught:
        study(**search)
    assert str(caught.value).startswith("my.toml: search")
    assert "\n" not in str(caught.value)


def test_a_config_of_a_method_that_this_version_does_not_know(tmp_path):
    PruningConfig.single(6, method="visionzip").save_pretrained(tmp_path)
    path = tmp_path / "pruning_config.json"
    path.write_text(path.read_text().replace('"visionzip"', '"vizionzip2"'))
    with pytest.raises(ConfigError) as caught:
        PruningConfig.from_pretrained(tmp_path)
    message = str(caught.value)
    for part in (str(path), "table[0]", "'vizionzip2'", "Did you mean 'visionzip'", "installed"):
        assert part in message
