"""The energy curve against least squares from scratch, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from resprune import methods
from resprune.methods import Inputs
from resprune.subspace import greedy_order
from resprune.subspace.energy import energy_curve


def brute(tokens: Tensor, order: Tensor, weights: Tensor) -> list[float]:
    """Project every token on the picks anew at each step."""
    rows, weight = tokens.double().numpy(), weights.double().numpy()
    total = float((weight * (rows**2).sum(axis=1)).sum())
    curve = []
    for k in range(1, len(order) + 1):
        picks = rows[order[:k].numpy()]
        solved = np.linalg.lstsq(picks.T, rows.T, rcond=1e-7)[0]
        left = ((rows - (picks.T @ solved).T) ** 2).sum(axis=1)
        curve.append(float((weight * left).sum()) / total)
    return curve


def image(kind: str, tokens: int = 30, width: int = 12) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    rows = torch.randn(tokens, width, generator=draw)
    if kind == "duplicates":
        rows = rows[torch.arange(tokens) // 3]
    elif kind == "low rank":
        rows = rows[:, :4] @ torch.randn(4, width, generator=draw)
    elif kind == "some zeros":
        rows[::4] = 0
    elif kind == "large":
        rows = rows * 1e30
    elif kind == "scales":
        rows = rows * torch.logspace(-3, 3, tokens)[torch.randperm(tokens, generator=draw), None]
    return rows.double() if kind in ("low rank", "large") else rows


KINDS = ["plain", "duplicates", "low rank", "some zeros", "large", "scales"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("greedy", [True, False])
def test_equals_least_squares(kind: str, weighted: bool, greedy: bool) -> None:
    tokens = image(kind)
    weights = torch.rand(30, generator=torch.Generator().manual_seed(1)) ** 3
    weights = weights if weighted else torch.ones(30)
    # to the end, over the rank: the greedy order restarts there; any order may be asked of
    order = greedy_order(tokens, weights, 30)
    if not greedy:
        order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    found = energy_curve(tokens, order, weights if weighted else None)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), brute(tokens, order, weights), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_it_never_rises_and_is_never_reset(kind: str) -> None:
    tokens = image(kind)
    found = energy_curve(tokens, greedy_order(tokens, torch.ones(30), 30))
    assert bool((found.diff() <= 0).all())
    assert bool((found >= 0).all())
    assert float(found[-1]) < 1e-9  # all are kept


def test_a_shorter_order_is_a_prefix_of_the_curve() -> None:
    tokens = image("plain")
    order = greedy_order(tokens, torch.ones(30), 30)
    whole = energy_curve(tokens, order)
    torch.testing.assert_close(energy_curve(tokens, order[:7]), whole[:7])


@pytest.mark.parametrize("tokens", [torch.zeros(4, 3), torch.zeros(1, 3)])
def test_an_image_without_energy_has_none_left(tokens: Tensor) -> None:
    assert energy_curve(tokens, torch.arange(len(tokens))).tolist() == [0.0] * len(tokens)


def test_weights_that_are_all_zero() -> None:
    assert energy_curve(image("plain"), torch.arange(3), torch.zeros(30)).tolist() == [0.0] * 3


def test_cdpruners_energy_is_that_of_its_kernel() -> None:
    """``sum r^2 (residual of the unit row)^2``: what is left of the kernel's trace."""
    tokens, method = image("scales"), methods.get("cdpruner")
    tokens[5] = 0
    relevance = torch.rand(30, generator=torch.Generator().manual_seed(4))
    given, options = Inputs(tokens, relevance), method.options()
    order = method.select(given, 8, options).indices
    found = energy_curve(tokens, order, method.weights(given, options))
    unit = torch.nn.functional.normalize(tokens.double(), dim=1)
    kernel = relevance.double()[:, None] * (unit @ unit.T) * relevance.double()
    for k in range(1, 9):
        own = kernel[order[:k]][:, order[:k]]
        cross = kernel[order[:k]]
        left = kernel.trace() - (cross * torch.linalg.solve(own, cross)).sum()
        torch.testing.assert_close(found[k - 1], left / kernel.trace(), rtol=1e-6, atol=1e-9)
