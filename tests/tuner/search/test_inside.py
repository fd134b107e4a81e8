"""Methods inside the LLM in ``[search]``: whole numbers, switches, positions, and a later stage."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from resprune import backbones
from resprune.errors import StudyError
from resprune.setting import Setting
from resprune.testing.tiny import tiny_qwen
from tuner.scoring import metrics
from tuner.scoring.model import load_backbone
from tuner.search.choose import Candidate, choose_setting
from tuner.search.objectives import Pareto, Tuned
from tuner.search.section import WholeRange
from tuner.search.space import Space
from tuner.search.trials import Search
from tuner.stages.fits import check_model, spaces_of
from tuner.study import dump_study, load_study, study_from_dict

pytestmark = pytest.mark.usefixtures("thinner")
LATER = {"method": "thinner", "budget": 6, "layer": 1}


def study(**search):
    splits = {name: {"split": name, "samples": 1} for name in ("tune", "report")}
    return study_from_dict(
        {
            "study": {"name": "s", "trials": 8},
            "backbone": {"model": "nano-llava"},
            "task": {"name": "nano-scenes", **splits},
            "search": {"budget": [22, 11], **search},
        },
        where="my.toml",
    )


@pytest.fixture(scope="module")
def nano_llava():
    return load_backbone(study().backbone, weights=False)


@pytest.fixture(scope="module")
def mrope():
    model, processor = tiny_qwen("qwen2_5_vl")
    return backbones.for_model(model.eval(), processor)


def test_whole_numbers_stay_whole_and_switches_switches():
    config = study(method="thinner")
    found = config.search.options["thinner"]
    assert found["layer"] == WholeRange(low=1, high=9, step=2)
    assert found["merge"] == (False, True)
    space = Space(config.search, "thinner", config.budgets())
    assert space.distributions() == {
        "layer": IntDistribution(1, 9, step=2),
        "merge": CategoricalDistribution([False, True]),
        "share": space.distributions()["share"],
        "budget": CategoricalDistribution([22, 11]),
    }
    assert space.size == 5 * 2 * 3
    listed = study(method="thinner", layer=[1, 4], merge=True).search.options["thinner"]
    assert [type(value) for value in (*listed["layer"], *listed["merge"])] == [int, int, bool]


def test_trials_are_settings_of_whole_numbers_and_a_resumed_study_goes_on(tmp_path):
    config = study(method="thinner")

    def run(folder, total):
        space = Space(config.search, "thinner", config.budgets())
        search = Search("s", [space], config.study.objective, 3, folder, {})
        search.run(total, lambda s: (s.option("layer") / 9, 22, 50.0), None, lambda *_: None)
        return [trial.setting for trial in search.trials()]

    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "once", 14)
    assert {setting.option("layer") for setting in whole} <= {1, 3, 5, 7, 9}
    assert {type(setting.option("layer")) for setting in whole} == {int}
    assert {setting.option("merge") for setting in whole} == {False, True}
    assert run(tmp_path / "twice", 5) == whole[:5]
    assert run(tmp_path / "twice", 14) == whole


def test_neighbours_in_a_whole_number_lend_scores_and_switches_do_not():
    # range 1 to 9, so neighbours within 1: of layers 1, 2 the weight is 0, of layer 1 alone 1
    def candidate(right, **options):
        setting = Setting.of("thinner", 11, **options)
        return Candidate(setting, (np.arange(100) < right).astype(float))

    peak, plateau = candidate(70, layer=1), candidate(69, layer=5)
    assert choose_setting([peak, plateau]) is peak
    shared = [candidate(50, layer=1, share=0.55), candidate(69, layer=5, share=0.55)]
    assert choose_setting([peak, plateau, *shared]) is plateau
    switched = [candidate(50, layer=1, share=0.55, merge=True)]
    assert choose_setting([peak, plateau, *switched]) is peak


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"layer": 1.5}, r"layer: .*valid integer.*not 1\.5 .*'thinner'"),
        ({"layer": {"step": 0.5}}, r"layer: step: .*valid integer.*not 0\.5"),
        ({"layer": 0}, "layer: .*equal to 1, not 0"),
        ({"merge": "yes"}, "merge: .*valid boolean, not 'yes'"),
        ({"merge": {"low": 0}}, "merge: a range of names; list some of"),
        ({"budget": [{"energy": 0.1, "most": 9}]}, "'thinner' has no energy budgets"),
        ({"later": LATER}, "later: follows a method before the LLM, and none is searched"),
    ],
)
def test_wrong_values_of_its_options(search, message):
    with pytest.raises(StudyError, match=message):
        study(method="thinner", **search)


# -- a later stage ------------------------------------------------------------------------


def test_a_later_stage_follows_every_method_before_the_llm(tmp_path):
    config = study(method=["resprune", "thinner", "pool"], later=LATER)
    settings = {
        name: Space(config.search, name, config.budgets()).base(config.budgets()[0])
        for name in config.search.method
    }
    assert settings["pool"] == Setting.of("pool", 22).then("thinner", 6, layer=1)
    assert settings["resprune"].later == settings["pool"].later
    assert settings["thinner"].later is None
    (tmp_path / "s.toml").write_text(dump_study(config))
    assert load_study(tmp_path / "s.toml") == config
    assert config.changed_since(study(method=["resprune", "thinner", "pool"])) == ["search.later"]


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({**LATER, "method": "thiner"}, r"later\.method: 'thiner' .*Did you mean 'thinner'"),
        ({**LATER, "method": "pool"}, r"later\.method: 'pool' is no method inside the LLM"),
        ({**LATER, "layr": 1}, r"'later\.layr': .*'thinner'. Did you mean 'layer'"),
        ({**LATER, "layer": 0}, "later: .*layer: .*equal to 1, not 0"),
        ({"method": "thinner"}, "later: key 'budget' is missing"),
        ({**LATER, "budget": 0}, "later: budget: 0 is not a budget"),
        ({**LATER, "budget": 12}, "11 is below the 12 that search.later leaves in the end"),
        (3, "later: 3 is no table; write later = "),
    ],
)
def test_a_later_stage_that_is_wrong(later, message):
    with pytest.raises(StudyError, match=message) as caught:
        study(later=later)
    assert str(caught.value).startswith("my.toml: search")


# -- what only the model tells ------------------------------------------------------------


def test_positions_left_out_are_the_published_ones_where_the_model_allows_them(nano_llava, mrope):
    config = study(method=["resprune", "thinner"], seed_strategy="l2_norm")
    for backbone, expected in ((nano_llava, "compact"), (mrope, "keep")):
        spaces = spaces_of(config, backbone)
        base = {name: space.base(config.budgets()[0]) for name, space in spaces.items()}
        assert (base["resprune"].positions, base["thinner"].positions) == ("keep", expected)
    named = spaces_of(study(method="thinner", positions="keep"), nano_llava)
    assert named["thinner"].positions == ("keep",)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"method": "thinner"}, r"s: search\.thinner\.layer: layer 9 is none of 1 to 3"),
        ({"method": "thinner", "layer": [1, 4]}, r"search\.thinner\.layer: layer 4 is none"),
        ({"later": {**LATER, "layer": 4}}, r"search\.later: layer 4 is none of 1 to 3"),
        (
            {"later": {**LATER, "budget": 0.5}},
            r"search\.later: 98 tokens are to be left of the 22 .*lower later\.budget",
        ),
    ],
)
def test_what_the_models_depth_refuses_names_the_key(nano_llava, search, message):
    with pytest.raises(StudyError, match=message):
        check_model(study(**search), nano_llava)


def test_what_fits_the_depth_is_not_refused(nano_llava):
    check_model(study(method=["resprune", "thinner"], layer=[1, 3], later=LATER), nano_llava)


def test_compact_is_refused_where_positions_have_three_axes(mrope):
    config = study(method="thinner", layer=1, positions=["keep", "compact"])
    with pytest.raises(StudyError, match=r"search\.positions: .*'thinner' acts there.*'compact'"):
        check_model(config, mrope)
    check_model(study(method="pool", positions=["keep", "compact"]), mrope)


# -- what is recommended ------------------------------------------------------------------


def test_the_least_cost_and_not_the_fewest_tokens_is_recommended():
    # 11 tokens left in the end cost 57 a layer, more than 22 kept before the LLM
    tuned = Tuned({57.25: 0.9, 22.0: 0.9}, 0.9, metrics.get("score"), (), {57.25: "11 tokens"})
    found, reason = Pareto(tolerance=0.05).recommend(tuned)
    assert found == 22.0
    assert reason.startswith("22 tokens is the smallest budget")
    dear = Tuned({57.25: 0.9, 22.0: 0.5}, 0.9, metrics.get("score"), (), {57.25: "11 tokens"})
    assert Pareto(tolerance=0.05).recommend(dear)[1].startswith("11 tokens is the smallest")
