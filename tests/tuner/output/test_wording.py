"""Settings, policies and budgets in words."""

import pytest

from resprune.budget import Count, Energy, Ratio
from resprune.options import Relevance
from resprune.setting import Adaptive, Setting
from tuner.output.frame import rows_frame
from tuner.output.wording import arms_text, kept_text, policy_text, searched_options


def ours(**options):
    return Setting.of("resprune", 11, **options)


def arms(*each):
    return Adaptive(arms=tuple(ours(**options) for options in each), fallback=0)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (ours(alpha=0.25), "resprune, alpha 0.25, seed l2_norm"),
        (ours(), "resprune, alpha 0.5, seed l2_norm"),  # searched unless a study says otherwise
        (
            ours(alpha=1.0, pooling="mean", seed_strategy="none"),
            "resprune, alpha 1, seed none, pooling mean",
        ),
        (
            ours(relevance=Relevance(eps=0.05)),
            "resprune, alpha 0.5, seed l2_norm, eps 0.05",
        ),
        (Setting.of("divprune", 11), "divprune"),
        (Setting.of("divprune", 11, positions="compact"), "divprune, positions compact"),
        (arms({"alpha": 0.0}, {"alpha": 2.0}), "resprune, alpha by prompt, seed l2_norm"),
        (
            arms({"alpha": 0.0, "seed_strategy": "none"}, {"alpha": 2.0}),
            "resprune, alpha by prompt, seed by prompt",
        ),
    ],
)
def test_a_policy_in_short(policy, said):
    assert policy_text(policy) == said


def test_a_default_that_was_searched_is_said(results_data, results):
    assert searched_options(results) == {
        ("resprune", "alpha"),
        ("resprune", "seed_strategy"),
        ("visionzip", "contextual"),
    }
    searched = {("resprune", "pooling")}
    assert policy_text(ours(), searched) == "resprune, alpha 0.5, seed l2_norm, pooling max"
    assert policy_text(ours(), {("cdpruner", "pooling")}) == policy_text(ours())


def test_arms_are_called_by_what_they_differ_in():
    assert arms_text(arms({"alpha": 0.0}, {"alpha": 0.25})) == ["alpha 0", "alpha 0.25"]
    both = arms({"alpha": 0.0, "seed_strategy": "none"}, {"alpha": 2.0})
    assert arms_text(both) == ["alpha 0, seed none", "alpha 2, seed l2_norm"]


@pytest.mark.parametrize(
    ("budget", "tokens", "total", "said"),
    [
        (Count(count=11), 11, 196, "11 of 196 (5.6 %)"),
        (Count(count=11), 11, None, "11"),
        (Count(count=11), 9, 196, "11: 9 of 196 (4.6 %) on average"),
        (Ratio(ratio=0.11), 22, 196, "0.11 of each image: 22 of 196 (11.2 %) on average"),
        (Energy(energy=0.05, most=98), 31, None, "energy 0.05 (1 to 98): 31 on average"),
        (Ratio(ratio=1.0), None, 196, "all 196"),
        (Ratio(ratio=1.0), None, None, "all"),
    ],
)
def test_how_much_is_kept(budget, tokens, total, said):
    policy = Setting.of("unpruned" if budget == Ratio(ratio=1.0) else "resprune", budget)
    assert kept_text(policy, tokens, total) == said


def test_rows_run_from_all_tokens_to_few_and_rivals_have_their_methods_name(results):
    rows = rows_frame(results)
    report = rows[rows.split == "report"]
    assert list(report.tokens) == sorted(report.tokens, reverse=True)
    assert report.kind.iloc[0] == "unpruned"
    assert list(report[report.kind == "rival"].label) == ["visionzip", "scope"] * 3
    at_six = report[report.budget == "6"]
    assert list(at_six.label) == [
        "Random tokens",
        "l2_norm",
        "cls_attention",
        "divprune",
        "pool",
        "relevance",
        "Alpha 0",
        "Paper's default",
        "visionzip",
        "scope",
        "Tuned, one setting",
        "Tuned, by prompt",
    ]
    exported = report[report.exported]
    assert list(zip(exported.tokens, exported.kind, strict=True)) == [
        (22, "tuned"),
        (11, "adaptive"),
        (6, "adaptive"),
    ]
    assert list(exported.recommended) == [False, True, False]
