"""What an adaptive policy is compared with is chosen on the fit split, never on the report's."""

from types import SimpleNamespace

import numpy as np
import pytest

from resprune.alpha import FEATURE_NAMES, AlphaPredictor, form_digest
from resprune.budget import Count
from resprune.setting import Adaptive, Setting
from tuner.alpha import AlphaFit
from tuner.stages.adaptive import Fitted, bounds_of, chosen_arms, fit_adaptive
from tuner.study import study_from_dict

ALPHAS = (0.0, 0.5, 2.0)
BUDGET = Count(count=6)
KNOWN = "what _ is the _"


def fitted_on(scores, strength=1.0):
    """A predictor to which the count of nouns says which arm: 0, 1 or 2."""
    scores = np.array(scores, dtype=float)
    arms = tuple(Setting.of("resprune", 6, alpha=alpha) for alpha in ALPHAS)
    weights = [[4.0, 1.0, -4.0]]
    predictor = AlphaPredictor.from_dict(
        {
            "schema_version": 3,
            "features": ["noun_count"],
            "center": [1.0],
            "scale": [1.0],
            "low": [0.0],
            "high": [2.0],
            "arms": [{"alpha": alpha} for alpha in ALPHAS],
            "forms": [form_digest(KNOWN)],
            "budgets": [
                {
                    "budget": {"count": 6},
                    "mean_losses": (1 - scores.mean(axis=1)).tolist(),
                    "strength": strength,
                    "model": {
                        "kind": "linear",
                        "pairs": [],
                        "weights": weights,
                        "bias": [0.0, -2.0, 0.0],
                    },
                }
            ],
        }
    )
    fit = AlphaFit(predictor, {BUDGET: strength}, {BUDGET: "" if strength else "why"}, (), {})
    policy = Adaptive(arms=arms, fallback=predictor.fallback(BUDGET))
    return Fitted(fit, {BUDGET: policy}, {BUDGET: scores})


def opened_with(fit, report):
    """A study of which only the question types of two splits are known."""
    groups = {"fit": fit, "report": report}
    return SimpleNamespace(split=lambda name: SimpleNamespace(groups=groups[name]))


# by question type (two samples each), the fit and the report split disagree on every arm
FIT = [[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1]]  # best: arm 1; of 'a' arm 0, of 'b' arm 1
REPORT = [[0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]]  # best, of every type: arm 2


def test_fixed_and_by_type_are_chosen_on_the_fit_split():
    fitted = fitted_on(FIT)
    opened = opened_with(["a", "a", "b", "b"], ["a", "a", "b", "b", "new"])
    bounds = bounds_of(opened, fitted, BUDGET, np.array(REPORT, dtype=float))
    assert fitted.policies[BUDGET].fallback == 1
    assert bounds.fixed.tolist() == REPORT[1]  # not arm 2, which is always right
    # a type that the fit split does not have gets the fallback
    assert bounds.by_group_arm == {"a": 0, "b": 1, "new": 1}
    assert bounds.grouped.tolist() == [*REPORT[0][:2], *REPORT[1][2:]]
    assert bounds.oracle.tolist() == [1.0] * 5


@pytest.mark.parametrize("strength", [0.0, 0.25])
def test_a_policy_is_adopted_where_its_predictions_are_trusted(strength):
    assert fitted_on(FIT, strength).gains(BUDGET) == (strength > 0)


def test_arms_of_prompts_and_how_many_are_unlike_those_fitted_on():
    fitted = fitted_on(FIT)
    features = np.zeros((5, len(FEATURE_NAMES)))
    features[:, FEATURE_NAMES.index("noun_count")] = [0, 1, 2, 2, 5]
    forms = [KNOWN, KNOWN, KNOWN, "tell me the _", KNOWN]
    arms, outside = chosen_arms(fitted, BUDGET, features, forms)
    assert arms.tolist() == [0, 1, 2, 1, 1]
    assert outside == 2


def test_the_fallback_of_a_policy_is_the_best_arm_of_the_fit_split():
    """Fitted on made-up outcomes: arm 2 is best, in a split that has no other name than fit."""
    rng = np.random.default_rng(0)
    rates = np.array([0.5, 0.6, 0.8])
    scores = (rng.random((3, 60)) < rates[:, None]).astype(float)
    split = SimpleNamespace(
        samples=[SimpleNamespace(answers=())] * 60,
        images=[f"{i}" for i in range(60)],
        plans=lambda settings: settings,
        score_plans=lambda settings: scores,
        features=lambda: rng.normal(size=(60, len(FEATURE_NAMES))),
        forms=lambda: [f"what _ is {i % 12}" for i in range(60)],
    )
    study = study_from_dict(
        {
            "study": {"name": "s"},
            "backbone": {"model": "nano-llava"},
            "task": {
                "name": "nano-scenes",
                **{part: {"split": part, "samples": 2} for part in ("tune", "fit", "report")},
            },
            "search": {"budget": [6]},
            "alpha": {"grid": list(ALPHAS), "adaptive": True, "budgets": [6]},
        }
    )
    metric = SimpleNamespace(name="score", losses=lambda table: 1 - table)
    opened = SimpleNamespace(
        study=study,
        seed=0,
        split={"fit": split}.__getitem__,
        bench=SimpleNamespace(metric=metric),
        progress=SimpleNamespace(stage=lambda name: None),
    )
    fitted = fit_adaptive(opened, {BUDGET: Setting.of("resprune", 6)})
    assert fitted is not None
    assert fitted.policies[BUDGET].fallback == int(scores.mean(axis=1).argmax()) == 2
    assert fitted.fit.predictor.data.forms == sorted(
        form_digest(f"what _ is {i}") for i in range(12)
    )
    assert fitted.fit.reasons[BUDGET].startswith("no gain by image")
