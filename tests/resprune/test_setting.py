"""Settings and policies: one JSON form, validated once, hashable."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from resprune import methods
from resprune.budget import Count, Energy, Ratio
from resprune.errors import ConfigError, ResPruneError
from resprune.methods.resprune import ResPruneOptions
from resprune.methods.scope import ScopeOptions
from resprune.options import Relevance
from resprune.setting import Adaptive, Policy, Setting, fixed, overridden, paper_default
from resprune.testing.methods import MethodCase

POLICY: TypeAdapter[Any] = TypeAdapter(Policy)
SETTINGS = [
    Setting(method=name, options=options, budget=Ratio(ratio=1.0), positions=positions)
    for name in methods.names()
    for options in MethodCase(methods.get(name)).options
    for positions in ("keep", "compact")
]


def arms(*alphas: float, budget: Any = 43, **options: Any) -> tuple[Setting, ...]:
    return tuple(Setting.of("resprune", budget, alpha=alpha, **options) for alpha in alphas)


ADAPTIVE = Adaptive(arms=arms(0.0, 0.5, 4.0), fallback=1)


@pytest.mark.parametrize("setting", [*SETTINGS, *ADAPTIVE.arms], ids=str)
def test_settings_are_values(setting: Setting) -> None:
    data = json.loads(json.dumps(setting.model_dump(mode="json")))
    for again in (
        Setting.model_validate_json(setting.model_dump_json()),
        Setting.model_validate(data),
        POLICY.validate_python(data),
        POLICY.validate_json(POLICY.dump_json(setting)),
    ):
        assert again == setting
        assert hash(again) == hash(setting)
        assert type(again.options) is type(setting.options)
        assert type(again.budget) is type(setting.budget)


def test_settings_differ_where_anything_does() -> None:
    assert len(set(SETTINGS)) == len(SETTINGS)
    bare = [Setting.of(name, 5) for name in ("uniform", "l2_norm", "divprune")]
    assert len(set(bare)) == 3


def test_the_json_form() -> None:
    setting = Setting.of("resprune", 1.0, alpha=2, seed_strategy="relevance", pooling="mean")
    assert setting.model_dump(mode="json") == {
        "method": "resprune",
        "options": {
            "alpha": 2.0,
            "seed_strategy": "relevance",
            "relevance": {"pooling": "mean", "normalization": "minmax", "eps": 0.01},
        },
        "budget": {"ratio": 1.0},
        "positions": "keep",
    }
    assert '"ratio":1.0' in setting.model_dump_json()
    shortest = Setting.model_validate({"method": "scope", "budget": 9})
    assert shortest == Setting.of("scope", Count(count=9), exponent=1.0)


def test_options_by_name() -> None:
    setting = Setting.of("resprune", 5, normalization="shift")
    assert setting.option("normalization") == "shift"
    assert setting.option("alpha") == 0.5
    assert setting.option("exponent") is None
    changed = setting.with_options(alpha=1.25, pooling="pooled")
    assert changed.options == ResPruneOptions(
        alpha=1.25, relevance=Relevance(pooling="pooled", normalization="shift")
    )
    assert setting.option("alpha") == 0.5
    assert changed.at(0.5) == Setting.of(
        "resprune", Ratio(ratio=0.5), alpha=1.25, pooling="pooled", normalization="shift"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Setting.of("resprune", 5, alhpa=1.0), "Did you mean 'alpha'"),
        (lambda: Setting.of("divprune", 5, alpha=1.0), "'alpha'"),
        (lambda: Setting.of("resprune", 5, alpha=16.5), "alpha: .*16"),
        (lambda: Setting.of("resprune", 5, alpha=float("nan")), "alpha"),
        (lambda: Setting.of("resprune", 5, alpha=True), "alpha: .*not True"),
        (lambda: Setting.of("resprune", 5, seed_strategy="l2norm"), "Did you mean 'l2_norm'"),
        (lambda: Setting.of("resprune", 5, pooling="men"), "Did you mean 'mean'"),
        (lambda: Setting.of("visionzip", 5, contextual=1.0), "contextual: .*not 1.0"),
        (lambda: Setting.of("random", 5, seed=-1), "seed: .*not -1"),
        (lambda: Setting.of("resprun", 5), "unknown method 'resprun'.*Did you mean"),
        (lambda: Setting.of("scope", 0), "budget: 0 is not a budget"),
        (lambda: Setting.of("scope", 5, positions="packed"), "positions: .*'packed'"),
        (lambda: Setting.of("visionzip", Energy(energy=0.1, most=9)), "no energy budgets"),
        (lambda: Setting.of("uniform", 5).at(Energy(energy=0.1, most=9)), "no energy budgets"),
        (lambda: Setting.of("scope", 5).at(-1), "budget: -1 is not a budget"),
        (lambda: Setting.of("scope", 5).with_options(exponant=2.0), "Did you mean 'exponent'"),
    ],
)
def test_wrong_values_are_named(call: Any, message: str) -> None:
    with pytest.raises(ResPruneError, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"method": "scope", "options": ScopeOptions(), "budget": 5, "extra": 1}, "extra"),
        ({"method": "divprune", "options": ScopeOptions(), "budget": 5}, "takes DivPruneOptions"),
        ({"method": "divprune", "options": {"exponent": 1.0}, "budget": 5}, "unknown key"),
        ({"method": 3, "options": {}, "budget": 5}, "method"),
        ({"options": {}, "budget": 5}, "method"),
        ({"method": "scope"}, "budget"),
        ("scope", "Setting"),
        ({"arms": []}, "arms"),
    ],
)
def test_wrong_files_are_named(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        POLICY.validate_python(data)


# -- adaptive ---------------------------------------------------------------------------------


def test_adaptive_policies_are_values() -> None:
    data = json.loads(json.dumps(ADAPTIVE.model_dump(mode="json")))
    for again in (POLICY.validate_python(data), POLICY.validate_json(POLICY.dump_json(ADAPTIVE))):
        assert again == ADAPTIVE
        assert hash(again) == hash(ADAPTIVE)
    assert (ADAPTIVE.method, ADAPTIVE.budget, ADAPTIVE.positions) == (
        "resprune",
        Count(count=43),
        "keep",
    )
    assert ADAPTIVE.predictor == "alpha_predictor.json"


def test_arms_may_vary_in_what_is_marked() -> None:
    wide = (*arms(0.0, 0.5), *arms(0.5, seed_strategy="relevance"))
    assert Adaptive(arms=wide, fallback=0).arms == wide


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arms": arms(0.5), "fallback": 0}, "arms"),
        ({"arms": arms(0.5, 0.5), "fallback": 0}, "lists a setting twice"),
        ({"arms": arms(0.5, 1.0), "fallback": 2}, "fallback 2 is over the 2 arms"),
        ({"arms": arms(0.5, 1.0), "fallback": -1}, "fallback"),
        ({"arms": (*arms(0.5), *arms(1.0, budget=9)), "fallback": 0}, r"arms\[1\] differs"),
        ({"arms": (*arms(0.5), *arms(1.0, pooling="mean")), "fallback": 0}, r"arms\[1\] differs"),
        ({"arms": (*arms(0.5), Setting.of("scope", 43)), "fallback": 0}, r"arms\[1\] differs"),
        (
            {"arms": (Setting.of("scope", 9), Setting.of("scope", 9, exponent=2.0)), "fallback": 0},
            "nothing of this method",
        ),
        ({"arms": arms(0.5, 1.0), "fallback": 0, "predictor": "../x.json"}, "predictor"),
        ({"arms": arms(0.5, 1.0), "fallback": 0, "predictor": "x.pkl"}, "predictor"),
    ],
)
def test_arms_that_are_no_family(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adaptive(**given)


def test_a_calls_options_override_a_policy() -> None:
    assert fixed(ADAPTIVE) == ADAPTIVE.arms[1]
    assert overridden(ADAPTIVE, {}) is ADAPTIVE
    assert overridden(ADAPTIVE, {"alpha": 2.0}) == arms(2.0)[0]
    with pytest.raises(ConfigError, match="'exponent'"):
        overridden(ADAPTIVE, {"exponent": 2.0})


def test_the_papers_settings() -> None:
    assert paper_default("qwen2_5_vl", 64) == Setting.of("resprune", 64, alpha=0.3)
    llava = Setting.of("resprune", 0.5, alpha=0.75, seed_strategy="cls_attention")
    assert paper_default("llava", 0.5) == llava
    assert paper_default("gemma3", 9) == Setting.of("resprune", 9)
