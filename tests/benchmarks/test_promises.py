"""Certificates in replays, and how they are counted."""

import numpy as np
import pytest

from benchmarks import promises
from benchmarks.replay import draw
from tuner.certificate import exact_p_value


def test_a_certificate_is_that_of_the_counts(table):
    """The order and the p-values by hand, down to the first that fails."""
    rng = np.random.default_rng(3)
    for number in range(6):
        tune, fresh = draw(table, 300, 1, rng), draw(table, 600, 1, rng)
        chosen = {b: table.rows("resprune", b)[12 + number] for b in (98, 64, 43, 22)}

        def counts(row, split):
            before, after = table.right[table.unpruned], table.right[row]
            worse = sum(bool(before[i]) and not after[i] for i in split.samples)
            better = sum(not before[i] and bool(after[i]) for i in split.samples)
            return worse, better

        def promise(budget, tune=tune, chosen=chosen):
            worse, better = counts(chosen[budget], tune)
            lost = (worse - better) / 300
            variance = ((worse + better) / 300 - lost**2) / 299 + 2 / 300**2
            return (0.05 - lost) / np.sqrt(variance), budget

        expected = []
        for budget in sorted(chosen, key=promise, reverse=True):
            if exact_p_value(*counts(chosen[budget], fresh), 600, 0.05) > 0.05:
                break
            expected.append(budget)
        assert promises.certify(table, chosen, tune, fresh, 0.05) == expected
        assert 98 in expected
        assert 22 not in expected  # it loses 10 points


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
