"""Certificates in replays, and how they are counted."""

import numpy as np
import pytest

from benchmarks import promises
from benchmarks.replay import Draw


def test_flips_are_counted_one_by_one(table):
    row = table.rows("resprune", 11)[5]
    split = Draw(np.array([3, 3, 700, 41, 99]), np.arange(5))
    before, after = table.right[table.unpruned], table.right[row]
    worse = sum(bool(before[i]) and not after[i] for i in split.samples)
    better = sum(not before[i] and bool(after[i]) for i in split.samples)
    assert promises.flips(table, row, split) == (worse, better)


def test_the_first_budget_that_fails_ends_the_tests(table, monkeypatch):
    chosen = {b: table.rows("resprune", b)[0] for b in (98, 64, 43)}
    split = Draw(np.arange(600), np.arange(600))
    monkeypatch.setattr(promises, "in_order", lambda counts, n, loss: [64, 98, 43])
    for p, certified in (([0.01, 0.2, 0.01], [64]), ([0.05, 0.05, 0.06], [64, 98])):
        values = iter(p)
        monkeypatch.setattr(promises, "p_value", lambda *_, values=values: next(values))
        assert promises.certify(table, chosen, split, split, 0.02) == certified


def test_the_summary_counts_promises_against_the_truth(table):
    chosen = {str(b): table.rows("resprune", b)[12] for b in promises.BUDGETS}  # alpha 1: no more

    def replay(two, five, tokens, *, claimed):
        old = {"tokens": tokens, "row": chosen[str(tokens)], "claimed": claimed}
        certified = {"0.02": two, "0.05": five}
        return {"chosen": chosen, "certified": certified, "old": {"43 to 6": old, "98 to 6": old}}

    # the table's true losses at 98, 64, 43 and 22 tokens: 0, 1, 4 and 10 points
    found = [
        replay([98, 64], [98, 64, 43], 64, claimed=True),
        replay([98, 64, 43], [98], 43, claimed=True),
        replay([], [98, 64, 43, 22], 22, claimed=False),
    ]
    rows = {row["rule"]: row for row in promises.study_rows(table, found)}
    two, five = rows["certified, 2 points"], rows["certified, 5 points"]
    assert (two["promised"], two["broken"], two["tokens"]) == (2, 1, [64, 43])
    assert (five["promised"], five["broken"], five["tokens"]) == (3, 1, [43, 98, 22])
    old = rows["2 % on tune, 98 to 6"]
    assert (old["promised"], old["broken"], old["tokens"]) == (2, 1, [64, 43])
    assert old["knee"] == pytest.approx([0.1])
    text = promises.study_summary(table, found)
    assert "| certified, 2 points | 66.7 % [20.8, 93.9] | 33.3 % [6.1, 79.2] | 50.0 %" in text
