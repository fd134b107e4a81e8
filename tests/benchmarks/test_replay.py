"""Replays on a table whose truth is known."""

import json

import numpy as np
import optuna
import pytest

from benchmarks import choosing
from benchmarks.choosing import RULES
from benchmarks.replay import SAMPLERS, Candidates, Draw, Grid, choose, draw, first_samples
from benchmarks.replays import replays
from tuner.search.objectives import Pareto
from tuner.search.trials import MethodSearch

BUDGETS = (43, 11)
EVERYTHING = 2 * 27


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def whole(table):
    """The population itself as a tune split."""
    return Draw(np.arange(len(table.images)), table.images)


def test_draws_are_unbiased_and_clustered(table):
    rng = np.random.default_rng(0)
    row = table.rows("resprune", 6)[0]
    for questions in (1, 8):
        means = []
        for _ in range(400):
            split = draw(table, 30, questions, rng)
            assert np.bincount(split.images).tolist() == [questions] * 30
            for image in range(30):  # one image of the table behind each
                assert len(set(table.images[split.samples[split.images == image]])) == 1
            means.append(table.right[row, split.samples].mean())
        error = np.std(means) / np.sqrt(len(means))
        assert abs(np.mean(means) - table.truth[row]) < 4 * error


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_sampler_deals_budgets_in_turn_and_repeats_nothing(name, table):
    space, scores = Grid(table, BUDGETS), table.truth
    tried = SAMPLERS[name](space, table, scores, 21, 0)
    assert [len(rows) for rows in tried.values()] == [11, 10]
    for budget, rows in tried.items():
        assert rows[0] == table.row(space.paper(budget))
        assert len(set(rows)) == len(rows)
        assert {table.settings[row].budget.count for row in rows} == {budget}


@pytest.mark.parametrize("name", ["grid", "random"])
def test_with_enough_trials_the_whole_grid_is_tried(name, table):
    tried = SAMPLERS[name](Grid(table, BUDGETS), table, table.truth, EVERYTHING, 0)
    assert {b: sorted(rows) for b, rows in tried.items()} == {
        b: table.rows("resprune", b) for b in BUDGETS
    }


def test_tpe_is_the_tuners_own_search(table):
    """The same trials as of a study that knows nothing of tables but what they score."""
    space = Grid(table, BUDGETS)
    first = [space.paper(budget) for budget in BUDGETS]
    search = MethodSearch("other", space, Pareto(), 5, None, first)
    for _ in range(16):
        search.step(
            lambda s: (table.truth[table.row(s)], s.budget.count, float(s.budget.count)), None
        )
    own = [table.row(trial.setting) for trial in search.trials()]
    tried = SAMPLERS["tpe"](space, table, table.truth, 16, 5)
    assert sorted(own) == sorted(row for rows in tried.values() for row in rows)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_comes_near_the_best_where_all_is_known(rule, table, whole):
    rows = np.array(table.rows("resprune", 22))
    chosen = RULES[rule](Candidates(table, rows, whole))
    assert abs(table.settings[chosen].option("alpha") - 1.0) <= 0.25
    assert table.truth[chosen] >= table.truth[rows].max() - 0.01


def test_the_alpha_curve_of_what_leads_joins(table, whole):
    space = Grid(table, BUDGETS)
    far = {11: [table.row(space.paper(11).with_options(alpha=4.0, seed_strategy="relevance"))]}
    rule = RULES["best mean"]
    alone = choose(space, table, far, whole, rule, curves=False)
    assert alone == {11: far[11][0]}
    joined = choose(space, table, far, whole, rule)[11]
    assert table.settings[joined].option("alpha") == 1.0
    assert table.settings[joined].option("seed_strategy") == "relevance"


def test_a_split_is_cut_to_its_first_samples(table):
    split = draw(table, 38, 8, np.random.default_rng(0))
    cut = first_samples(split, 300)
    assert len(cut.samples) == len(cut.images) == 300
    assert cut.images.max() == 37


def test_replays_go_on_where_they_stopped(tmp_path):
    log, asked = tmp_path / "runs" / "log.jsonl", []

    def replay(number):
        asked.append(number)
        return {"square": {number: number**2}}

    first = replays(log, 3, replay)
    with log.open("a") as file:
        file.write('{"number": 3, "squ')  # cut short
    assert replays(log, 5, replay) == [{"number": n, "square": {str(n): n * n}} for n in range(5)]
    assert asked == [0, 1, 2, 3, 4]
    assert first == [json.loads(line) for line in log.read_text().splitlines()][:3]


def test_choosing_is_summed_up_against_the_truth(table, monkeypatch):
    monkeypatch.setattr(choosing, "BUDGETS", (22, 11))
    monkeypatch.setattr(choosing, "TRIALS", (8,))
    monkeypatch.setattr(choosing, "SHIPPED", 8)
    found = [choosing.replay(table, ["tpe", "random"], number) for number in range(2)]
    text = choosing.summary(table, json.loads(json.dumps(found)))
    true = [100 * table.truth[each["300 images"]["shipped"]].mean() for each in found]
    assert f"| shipped | {np.mean(true):.3f} |" in text.split("300 images")[1]
    assert "best setting of the grid 85.00, 75.00" in text
    # 2,000 samples tell alphas apart better than 300
    gains = [
        table.truth[each["300 images"]["alpha by fit split"]]
        - table.truth[each["300 images"]["shipped"]]
        for each in found
    ]
    assert np.mean(gains) >= 0
