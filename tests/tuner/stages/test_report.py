"""Rows of a report: each held against the right one, by brute force."""

from types import SimpleNamespace

import numpy as np
import pytest

from resprune.setting import Setting, unpruned
from tuner.results.statistics import Intervals
from tuner.results.verdicts import Pair, judge
from tuner.run import best_on_tune
from tuner.stages.report import Reported, row_pairs, rows_of, strongest, verdicts

IMAGES = [str(i) for i in range(200)]


def scored_of(means, budget, rng):
    """Made-up 0/1 scores of the rows of one budget."""
    kinds = [
        ("random", Setting.of("random", budget)),
        ("baseline", Setting.of("l2_norm", budget)),
        ("baseline", Setting.of("divprune", budget)),
        ("alpha-0", Setting.of("resprune", budget, alpha=0.0)),
        ("paper-default", Setting.of("resprune", budget, alpha=0.75)),
        ("rival", Setting.of("scope", budget)),
        ("tuned", Setting.of("resprune", budget, alpha=0.3)),
    ]
    draws = rng.random((len(kinds), 200))
    return [
        (kind, setting, (row < mean).astype(float))
        for (kind, setting), row, mean in zip(kinds, draws, means, strict=True)
    ]


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    return [
        ("unpruned", unpruned(), (rng.random(200) < 0.95).astype(float)),
        *scored_of((0.3, 0.9, 0.6, 0.5, 0.7, 0.8, 0.85), 22, rng),
        *scored_of((0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9), 11, rng),
    ]


@pytest.fixture
def opened():
    return SimpleNamespace(
        intervals=lambda split: Intervals(IMAGES),
        tokens=lambda setting: setting.budget.count,
        cost=lambda setting: float(setting.budget.count),
        notes=lambda setting: (),
    )


def test_each_row_is_held_against_the_strongest_of_its_own_budget(opened, scored):
    rows = rows_of(opened, scored, judge(row_pairs(scored), Intervals(IMAGES)))
    means = [scores.mean() for _, _, scores in scored]
    assert means[2] == max(means[1:6])  # l2_norm at 22
    assert means[12] == max(means[8:13])  # the paper's default at 11
    for place, row in enumerate(rows):
        best = {22: 2, 11: 12}.get(row.tokens)
        if row.kind in ("rival", "tuned"):
            assert row.versus_strongest.mean == pytest.approx(means[place] - means[best])
            named = {22: "l2_norm", 11: "the paper's default"}[row.tokens]
            assert row.versus_strongest.against == named
        else:
            assert row.versus_strongest is None
        if row.kind != "unpruned":
            assert row.versus_unpruned.mean == pytest.approx(means[place] - means[0])
            assert row.versus_unpruned.against == "all tokens"
    verdict = {(row.kind, row.tokens): row.versus_strongest for row in rows}
    assert verdict["tuned", 11].verdict == "better"
    assert rows[1].versus_unpruned.verdict == "worse"


def test_every_baseline_is_judged_and_nothing_of_another_budget(scored):
    pairs = row_pairs(scored)
    for place, (kind, policy, _) in enumerate(scored):
        against = sorted(key[2] for key in pairs if key[1] == place)
        if kind in ("rival", "tuned"):
            first = 1 if policy.budget.count == 22 else 8
            assert against == [0, *range(first, first + 5)]
        else:
            assert against == ([] if kind == "unpruned" else [0])


def test_the_strongest_is_the_highest_mean_and_of_equals_the_first(scored):
    budget = scored[1][1].budget
    assert strongest(scored, budget) == 2
    tied = [*scored[:3], (*scored[3][:2], scored[2][2]), *scored[4:]]
    assert strongest(tied, budget) == 2
    assert strongest(scored[:1], budget) is None


def test_the_best_fixed_policy_is_the_best_of_tune_and_of_equals_the_tuned(scored):
    at_22, at_11 = scored[1:8], scored[8:]
    assert best_on_tune(at_22) == ("baseline", Setting.of("l2_norm", 22))
    assert best_on_tune(at_11) == ("tuned", Setting.of("resprune", 11, alpha=0.3))
    level = [*at_22[:-1], (*at_22[-1][:2], at_22[1][2])]
    assert best_on_tune(level)[0] == "tuned"


def test_notes_name_the_strongest_and_its_verdict(opened, scored):
    rows = rows_of(opened, scored, judge(row_pairs(scored), Intervals(IMAGES)))
    notes = verdicts(Reported(rows, {}, {}), [], None)
    assert len(notes) == 2
    for note, row in zip(notes, [r for r in rows if r.kind == "tuned"], strict=True):
        one = row.versus_strongest
        assert note.startswith(f"{row.tokens} tokens: the tuned setting scores {one.mean:+.3f}")
        assert f"{one.verdict}) against {one.against}, the strongest baseline" in note


def test_a_pair_is_the_first_minus_the_second():
    pair = Pair(np.ones(30), np.zeros(30), "x")
    assert judge({0: pair}, Intervals(IMAGES[:30]))[0].mean == 1.0
