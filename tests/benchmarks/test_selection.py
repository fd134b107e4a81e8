"""The benchmark of the selection runs, and its photographs are what it says."""

import json

import pytest
import torch

from benchmarks import selection
from benchmarks.photographs import PHOTOGRAPHS, effective_rank, photograph_tokens
from resprune.subspace import greedy_order


def test_it_runs_small(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "SHAPES", [(25, 16, 4), (30, 16, 4)])
    monkeypatch.setattr(selection, "SWEEPS", [(25, 16, 4)])
    kinds = ["photographs", "correlated", "independent"]
    options = ["--repeats", "1", "--threads", "1", "--no-growth", "--kinds", *kinds]
    selection.main(["--out", str(tmp_path), *options])
    found = json.loads((tmp_path / "selection.json").read_text())
    shapes = [(row["kind"], row["shape"], row["batch"]) for row in found["shapes"]]
    # a photograph has as many tokens as a square
    assert ("photographs", [25, 16, 4], 1) in shapes
    assert not [kind for kind, shape, _ in shapes if kind == "photographs" and shape[0] == 30]
    assert {kind for kind, _, _ in shapes} == set(kinds)
    every = {"resprune", "gram_schmidt", *selection.GREEDY_RIVALS, *selection.OTHER_RIVALS}
    assert set(found["shapes"][0]["ms"]) == every
    page = (tmp_path / "selection.md").read_text()
    assert page.count("| 25, 16, 4 | photographs | 1 |") == 2


def test_what_is_compared_picks_the_same():
    for kind in ("photographs", "correlated"):
        image = selection.image(kind, 49, 64)
        weights = image.relevance**0.5
        expected = greedy_order(image.tokens.double(), weights.double(), 12).tolist()
        for order in (selection.gram_schmidt, selection.full_gram, greedy_order):
            assert order(image.tokens, weights, 12).tolist() == expected


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_have_few_directions(name):
    tokens = photograph_tokens(name, 196, 256)
    assert tokens.shape == (196, 256)
    assert torch.equal(tokens, photograph_tokens(name, 196, 256))
    assert effective_rank(tokens) < effective_rank(selection.image("independent", 196, 256).tokens)
    # rank of a matrix whose directions share the energy alike
    assert effective_rank(torch.eye(40)) == pytest.approx(39, abs=0.1)


def test_a_count_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match="200 tokens are no square"):
        photograph_tokens("coffee", 200, 16)
