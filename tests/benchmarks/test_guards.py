"""Replays of the alpha predictor's guard: what is given to it, and how adoption is counted."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import guards
from resprune.budget import Count

BUDGETS = (22, 6)


class Seen:
    """Stands in for both guards: remembers what it was given, and adopts at 6 tokens."""

    def __init__(self):
        self.former, self.fits = [], []
        self.predictor = self
        self.strengths = {Count(count=22): 0.0, Count(count=6): 1.0}

    def guard(self, x, losses, smooth, arms, images, seed):
        self.former.append(SimpleNamespace(x=x, losses=losses, images=images))
        return dict.fromkeys(losses, False)

    def fit(self, x, losses, arms, images, *, forms, seed, surrogate):
        self.fits.append(SimpleNamespace(x=x, losses=losses, images=images, forms=forms))
        return self

    def fallback(self, budget):
        return 0

    def arms_for(self, features, forms, budget):
        return np.full(len(features), 4)  # alpha 1


@pytest.fixture
def seen(monkeypatch):
    seen = Seen()
    monkeypatch.setattr(guards, "former_guard", seen.guard)
    monkeypatch.setattr(guards, "fit_alpha", seen.fit)
    return seen


def test_features_are_permuted_and_images_stay_whole(table, seen):
    replay = guards.Guards(table, BUDGETS).replay(0)
    permuted, true = seen.fits
    assert permuted.x.shape == (2000, table.features.shape[1])
    assert not np.array_equal(permuted.x, true.x)
    np.testing.assert_array_equal(np.sort(permuted.x[:, 0]), np.sort(true.x[:, 0]))
    for budget in (Count(count=b) for b in BUDGETS):
        np.testing.assert_array_equal(permuted.losses[budget], true.losses[budget])
    # 250 draws of 100 images: copies of an image carry one label, and there are fewer labels
    assert len(set(true.images.tolist())) < 100
    rows = {tuple(row): set() for row in true.x}
    for row, image in zip(true.x, true.images, strict=True):
        rows[tuple(row)].add(int(image))
    assert {len(images) for images in rows.values()} == {1}
    assert set(replay) == {"permuted", "true"}
    assert set(guards.Guards(table, BUDGETS).replay(1)) == {"permuted"}
    asked = len(seen.former)
    late = guards.Guards(table, BUDGETS).replay(guards.COMPARED)
    assert late == {"permuted": {"22": {"now": False}, "6": {"now": True}}}
    assert len(seen.former) == asked


def test_the_gain_is_that_of_the_images_left_out(table, seen):
    made = guards.Guards(table, BUDGETS)
    gain = made.replay(0)["true"]["6"]["gain"]
    drawn = np.unique(seen.fits[1].x[:, 0])
    rest = ~np.isin(table.features[:, 0], drawn)
    fixed, chosen = made._rows[6][[0, 4]]
    assert [table.settings[row].option("alpha") for row in (fixed, chosen)] == [0.0, 1.0]
    expected = table.right[chosen, rest].mean() - table.right[fixed, rest].mean()
    assert gain == pytest.approx(expected)


def test_adoptions_are_counted():
    def fits(former, now, **more):
        off = {"former": False, "now": False}
        return {"22": off, "6": {"former": former, "now": now, **more}}

    found = [
        {"permuted": fits(True, False), "true": fits(True, True, gain=0.02, error=0.01)},
        {"permuted": fits(True, True)},
        {"permuted": fits(False, False), "true": fits(True, True, gain=-0.01, error=0.01)},
        {"permuted": fits(False, False)},
        {"permuted": {"22": {"now": False}, "6": {"now": True}}},  # the former guard was not asked
    ]
    lines = guards.summary(BUDGETS, found).splitlines()
    assert lines[0] == (
        "5 fits of permuted features, 4 of them under the former guard too, 2 of the true ones"
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]]
    of = {row[0]: [cell.split(" %")[0] for cell in row[1:]] for row in rows}
    assert of["any"] == ["50.0", "40.0", "100.0", "100.0", "+0.50 points", "50.0"]
    assert of["6"] == of["any"]
    assert of["22"][4:] == ["none adopted", "none"]
