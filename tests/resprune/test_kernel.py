"""The Triton kernel through Triton's interpreter, on the CPU, against the same steps in torch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resprune.errors import ResPruneError
from resprune.subspace import greedy_order_batch
from resprune.subspace.paths import choose_path, has_triton

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs Triton: pip install 'resprune-tune[triton]'",
)

# Run in a process of its own: Triton reads TRITON_INTERPRET when the kernel is defined.
SCRIPT = """
import torch
from resprune.subspace import greedy_order_batch, masked, reference_order

masked._CANDIDATES, masked._PICKS = 8, 5


def check(tokens, weights, k, first=None, lengths=None):
    given = dict(first=first, lengths=lengths)
    expected = greedy_order_batch(tokens, weights, k, path="lazy_masked", **given)
    found = greedy_order_batch(tokens, weights, k, path="triton", **given)
    assert found.equal(expected), (found, expected)
    return found


generator = torch.Generator().manual_seed(0)
normal = lambda *shape: torch.randn(*shape, generator=generator)
tokens, weights = normal(2, 20, 12), torch.rand(2, 2, 20, generator=generator)
first, lengths = torch.tensor([[3, -1], [-1, 0]]), torch.tensor([20, 13])
order = check(tokens, weights, 9, first)
for image in range(2):
    for run in range(2):
        seed = int(first[image, run])
        oracle = reference_order(
            tokens[image], weights[image, run], 9, seed if seed >= 0 else None, tolerance=1e-5
        )
        assert order[image, run].equal(oracle)
check(tokens, weights, 20, first, lengths)  # k = T > d: restarts; a shorter image
deficient = normal(1, 14, 3) @ normal(3, 6)
deficient[0, 4:7] = deficient[0, 3]
deficient[0, 9] = 0
order = check(deficient, torch.ones(1, 14), 14)  # duplicates, a zero token, low rank
assert sorted(order[0].tolist()) == list(range(14))
assert check(torch.eye(9)[None], torch.ones(1, 9), 9)[0].tolist() == list(range(9))
assert check(torch.zeros(1, 4, 3), torch.ones(1, 4), 4)[0].tolist() == [0, 1, 2, 3]
check(normal(1, 1, 4), torch.ones(1, 1), 1)
check(normal(1, 11, 5).double(), torch.ones(1, 11), 11)
print("same")
"""


@needs_triton
def test_the_kernel_picks_as_torch_does() -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().endswith("same")


@pytest.mark.skipif(has_triton(), reason="Triton is installed")
def test_without_triton_the_path_says_what_to_install() -> None:
    with pytest.raises(ResPruneError, match=r"resprune-tune\[triton\]"):
        greedy_order_batch(torch.ones(1, 2, 2), torch.ones(1, 2), 1, path="triton")


def test_choice_of_the_path() -> None:
    gpu = torch.device("cuda")
    assert choose_path(torch.device("cpu"), 16384) == "lazy"
    assert choose_path(gpu, 576) == ("triton" if has_triton() else "recurrence")
    assert choose_path(gpu, 576, captured=True) == "recurrence"
    assert choose_path(gpu, 16384) == ("triton" if has_triton() else "lazy_masked")


@pytest.mark.skipif(
    not (torch.cuda.is_available() and has_triton()), reason="needs a GPU and Triton"
)
def test_the_kernel_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 700, 256, generator=generator)
    weights = torch.rand(2, 3, 700, generator=generator)
    expected = greedy_order_batch(tokens, weights, 150, path="lazy")
    inputs = tokens.cuda(), weights.cuda()
    assert greedy_order_batch(*inputs, 150, path="triton").cpu().equal(expected)
    greedy_order_batch(*inputs, 20, path="triton", validate=False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = greedy_order_batch(*inputs, 20, path="triton", validate=False)
    graph.replay()
    assert captured.cpu().equal(expected[:, :, :20])
