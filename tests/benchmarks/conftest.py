"""A small table whose truth is known."""

import numpy as np
import pytest

from benchmarks.table import Table
from benchmarks.tabulated import grid
from resprune.alpha import FEATURE_NAMES
from resprune.setting import unpruned

BUDGETS = (98, 64, 43, 22, 11, 6)
LOSS = dict(zip(BUDGETS, (0.0, 0.01, 0.04, 0.1, 0.2, 0.4), strict=True))
IMAGES, QUESTIONS = 100, 8


@pytest.fixture(scope="session")
def table():
    """Of 800 samples each setting gets a stated share wrong, more the farther alpha is from 1."""
    rng = np.random.default_rng(0)
    settings = [unpruned(), *(s for budget in BUDGETS for s in grid(budget))]
    n = IMAGES * QUESTIONS
    whole = np.ones(n, dtype=bool)
    whole[rng.permutation(n)[:40]] = False
    rows = []
    for s in settings:
        alpha = s.option("alpha")
        worse = 0 if s.method == "unpruned" else LOSS[s.budget.count]
        worse += 0.02 * abs(alpha - 1) if alpha is not None else 0.0
        row = whole.copy()
        row[rng.permutation(np.flatnonzero(whole))[: round(worse * n)]] = False
        rows.append(row)
    return Table(
        settings=tuple(settings),
        right=np.array(rows),
        likelihoods=-rng.random((len(settings), n)),
        features=rng.normal(size=(n, len(FEATURE_NAMES))),
        feature_names=tuple(FEATURE_NAMES),
        questions=tuple(f"is there a thing of kind {i % 7}?" for i in range(n)),
        groups=tuple(("what", "where")[i % 2] for i in range(n)),
        images=np.repeat(np.arange(IMAGES), QUESTIONS),
        made={"model": "none"},
    )
