"""Time the selection: ``python -m benchmarks.selection --out docs/performance``.

Compares ``greedy_order`` with textbook Gram-Schmidt, with the same picks from the full Gram matrix,
and with the rivals that choose before the LLM; measures sweeps over (alpha, seed) and growth with
T, d and k. Runs are interleaved, so that a machine that slows down slows all of them; figures are
medians. Writes ``selection.json``, ``selection.md`` and ``selection.svg``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.photographs import PHOTOGRAPHS, photograph_tokens
from resprune import methods
from resprune.files import write_text
from resprune.methods import Inputs
from resprune.subspace import gram_matrix, greedy_order, greedy_order_batch

SHAPES = [
    (196, 128, 43),
    (196, 1024, 8),
    (196, 1024, 12),
    (196, 1024, 22),
    (196, 4096, 8),
    (196, 4096, 22),
    (196, 4096, 32),
    (196, 4096, 64),
    (576, 1024, 64),
    (576, 4096, 8),
    (576, 4096, 22),
    (576, 4096, 64),
    (576, 4096, 128),
    (576, 4096, 192),
    (1296, 3584, 128),
    (1296, 3584, 256),
    (2880, 4096, 160),
    (2880, 4096, 320),
    (2880, 4096, 640),
    (16384, 3584, 1024),
]
SWEEPS = [(196, 128, 43), (576, 4096, 64), (2880, 4096, 160)]
GREEDY_RIVALS = ("divprune", "cdpruner", "scope", "vispruner")
OTHER_RIVALS = ("cls_attention", "visionzip")
LARGEST_SQUARE = 4096  # tokens up to which rivals that compare all pairs are run
LARGEST_BATCHED = 4096  # 16 larger images would take 7 GB
KINDS = ("photographs", "correlated", "independent")
Timings = dict[str, float]


def image(kind: str, count: int, width: int, seed: int = 0) -> Inputs:
    """An image of ``independent`` Gaussian tokens, of ``correlated`` ones, or a photograph.

    Correlated tokens share a mean (mean cosine near 0.5), lie in clusters of twelve and have a
    falling spectrum, so scores collapse as they do on features of a vision tower.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if kind == "photographs":
        tokens = photograph_tokens(PHOTOGRAPHS[seed % len(PHOTOGRAPHS)], count, width).clone()
    elif kind == "independent":
        tokens = normal(count, width)
    else:
        rank = max(1, width // 4)
        spectrum = torch.arange(1, rank + 1).float() ** -0.7
        tokens = (normal(count, rank) * spectrum) @ normal(rank, width) / 8
        clusters = 0.15 * normal(max(1, count // 12), width)
        tokens += clusters[torch.randint(0, len(clusters), (count,), generator=generator)]
        tokens += 0.25 * normal(width) + 0.05 * normal(count, width)
    if kind != "photographs":
        tokens *= 1 + 0.3 * torch.rand(count, 1, generator=generator)
    relevance = torch.rand(count, generator=generator).clamp_min(0.01)
    attention = torch.rand(count, generator=generator) ** 4
    return Inputs(tokens, relevance, {"cls_attention": attention})


def has(kind: str, count: int) -> bool:
    """Whether there are images of a kind with so many tokens."""
    return kind != "photographs" or math.isqrt(count) ** 2 == count


def gram_schmidt(tokens: Tensor, weights: Tensor, k: int) -> Tensor:
    """The textbook: one pass over the (T, d) features for each pick."""
    energy = tokens.square().sum(dim=1)
    basis = tokens.new_empty(k, tokens.shape[1])
    taken = torch.zeros(len(tokens), dtype=torch.bool)
    order = torch.empty(k, dtype=torch.int64)
    for step in range(k):
        pick = (energy * weights).masked_fill_(taken, -torch.inf).argmax()
        order[step], taken[pick] = pick, True
        row = tokens[pick].clone()
        row -= (basis[:step] @ row) @ basis[:step]
        basis[step] = row / row.norm()
        energy -= (tokens @ basis[step]).square()
    return order


def full_gram(tokens: Tensor, weights: Tensor, k: int) -> Tensor:
    """The pivoted-Cholesky recurrence on the whole Gram matrix; also what CDPruner's code costs."""
    gram = tokens @ tokens.T
    energy = gram.diagonal().clone()
    factor = tokens.new_empty(k, len(tokens))
    taken = torch.zeros(len(tokens), dtype=torch.bool)
    order = torch.empty(k, dtype=torch.int64)
    for step in range(k):
        pick = (energy * weights).masked_fill_(taken, -torch.inf).argmax()
        order[step], taken[pick] = pick, True
        column = gram[pick] - factor[:step, pick] @ factor[:step]
        factor[step] = column * energy[pick].rsqrt()
        energy -= factor[step].square()
    return order


def medians(runs: dict[str, Callable[[], object]], repeats: int, patience: float = 8) -> Timings:
    """Median milliseconds of each, interleaved.

    The first round warms up and is left out, unless rounds take so long (``patience`` seconds in
    all) that it is the only one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        if time.perf_counter() - begin > patience:
            break
    return {name: 1e3 * statistics.median(took[1:] or took) for name, took in seconds.items()}


def machine() -> str:
    """Name of the processor and version of torch."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}"


def machine_rates() -> tuple[float, float]:
    """Operations a second of a skinny matrix product, and bytes a second of a pass over memory."""
    left, right = torch.randn(64, 4096), torch.randn(2880, 4096)
    took = medians({"product": lambda: left @ right.T, "read": lambda: right.norm(dim=1)}, 7)
    product = 2 * 64 * right.numel() / (took["product"] / 1e3)
    return product, 4 * right.numel() / (took["read"] / 1e3)


def bounds(count: int, width: int, k: int, rates: tuple[float, float]) -> Timings:
    """What other work costs at the rates of this machine, in ms.

    ``columns_ms``: multiplying k picks with all tokens, which every method does that keeps all
    scores up to date. ``reading_ms``: reading the features once, which nothing exact goes below.
    """
    columns, reading = 2 * count * width * k / rates[0], 4 * count * width / rates[1]
    return {"columns_ms": 1e3 * columns, "reading_ms": 1e3 * reading}


def time_shape(shape: tuple[int, int, int], kind: str, batch: int, args: Any) -> Timings:
    """One row of the table."""
    count, width, k = shape
    inputs = image(kind, count, width)
    assert inputs.relevance is not None
    tokens, weights = inputs.tokens, inputs.relevance**0.5
    if batch > 1:
        many = torch.stack([image(kind, count, width, seed).tokens for seed in range(batch)])
        each = weights.expand(batch, count)
        return medians({"resprune": lambda: greedy_order_batch(many, each, k)}, args.repeats)
    runs: dict[str, Callable[[], object]] = {
        "resprune": lambda: greedy_order(tokens, weights, k),
        "gram_schmidt": lambda: gram_schmidt(tokens, weights, k),
    }
    for name in (*GREEDY_RIVALS, *OTHER_RIVALS):
        if count > LARGEST_SQUARE and name in GREEDY_RIVALS:
            continue
        method = methods.get(name)
        runs[name] = partial(method.select, inputs, k, method.options())
    if "cdpruner" in runs:  # as published; the method here runs on the lazy path itself
        runs["cdpruner"] = lambda: full_gram(tokens, weights, k)
    return medians(runs, args.repeats)


def time_sweep(shape: tuple[int, int, int], kind: str, repeats: int) -> Timings:
    """10 alphas x 3 seed strategies, with and without the Gram matrix at hand."""
    count, width, k = shape
    inputs = image(kind, count, width)
    assert inputs.relevance is not None
    tokens, relevance = inputs.tokens, inputs.relevance
    alphas = [0.25 * step for step in range(10)]
    seeds = [int(tokens.norm(dim=1).argmax()), int(relevance.argmax())]
    seeds.append(int(inputs.signals["cls_attention"].argmax()))
    pairs = list(itertools.product(alphas, seeds))
    weights = torch.stack([relevance**alpha for alpha, _ in pairs])[None]
    first = torch.tensor([[seed for _, seed in pairs]])
    gram = gram_matrix(tokens)[None]
    runs: dict[str, Callable[[], object]] = {
        "sweep": lambda: greedy_order_batch(tokens[None], weights, k, first),
        "sweep_with_gram": lambda: greedy_order_batch(tokens[None], weights, k, first, gram=gram),
        "all_singly": lambda: [
            greedy_order(tokens, weight, k, seed)
            for weight, (_, seed) in zip(weights[0], pairs, strict=True)
        ],
    }
    took = medians(runs, repeats)
    took["single"] = took.pop("all_singly") / len(pairs)
    return took


def growth(kind: str, repeats: int) -> list[dict[str, Any]]:
    """Time against T, d and k, one at a time, around (1152, 2048, 96)."""
    rows: list[dict[str, Any]] = []
    for axis, values in {
        "T": (288, 576, 1152, 2304, 4608),
        "d": (512, 1024, 2048, 4096, 8192),
        "k": (24, 48, 96, 192, 384),
    }.items():
        for value in values:
            shape = {"T": 1152, "d": 2048, "k": 96} | {axis: value}
            inputs = image(kind, shape["T"], shape["d"])
            assert inputs.relevance is not None
            tokens, weights = inputs.tokens, inputs.relevance**0.5
            runs: dict[str, Callable[[], object]] = {
                "resprune": partial(greedy_order, tokens, weights, shape["k"]),
                "gram_schmidt": partial(gram_schmidt, tokens, weights, shape["k"]),
            }
            rows.append({"axis": axis, **shape, **medians(runs, repeats)})
    return rows


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    rivals = (*GREEDY_RIVALS, *OTHER_RIVALS)
    lines = [
        f"Measured on {result['machine']}; load {result['load']} at the start and "
        f"{result['load_at_end']} at the end.",
        "",
    ]
    head = ["T, d, k", "features", "threads", "ResPrune ms", "columns ms", "reading ms"]
    head += ["Gram-Schmidt", *rivals]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in result["shapes"]:
        if row["batch"] > 1:
            continue
        took = row["ms"]
        ratios = [took[name] / took["resprune"] if name in took else None for name in rivals]
        cells = [
            f"{row['shape'][0]}, {row['shape'][1]}, {row['shape'][2]}",
            row["kind"],
            str(row["threads"]),
            f"{took['resprune']:.2f}",
            f"{row['columns_ms']:.2f}",
            f"{row['reading_ms']:.2f}",
            f"{took['gram_schmidt'] / took['resprune']:.1f}x",
            *("" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| T, d, k | features | threads | batch 16: ms an image |", "|---|---|---|---|"]
    for row in result["shapes"]:
        if row["batch"] > 1:
            shape = ", ".join(map(str, row["shape"]))
            each = row["ms"]["resprune"] / row["batch"]
            lines.append(f"| {shape} | {row['kind']} | {row['threads']} | {each:.2f} |")
    head = ["sweep of 30", "features", "ms", "in singles", "Gram at hand: ms", "in singles"]
    lines += ["", "| " + " | ".join(head) + " |"]
    lines.append("|---|---|---|---|---|---|")
    for row in result["sweeps"]:
        took = row["ms"]
        ratio = [took[name] / took["single"] for name in ("sweep", "sweep_with_gram")]
        shape = ", ".join(map(str, row["shape"]))
        lines.append(
            f"| {shape} | {row['kind']} | {took['sweep']:.1f} | {ratio[0]:.1f} "
            f"| {took['sweep_with_gram']:.1f} | {ratio[1]:.1f} |"
        )
    return "\n".join(lines) + "\n"


def figure(result: dict[str, Any]) -> str:
    """Growth with T, d and k on log-log axes, as SVG."""
    side, gap, top = 220, 60, 40
    series = {
        "resprune": ("greedy_order", "#1f77b4", ""),
        "gram_schmidt": ("textbook Gram-Schmidt", "#d62728", ""),
        "columns_ms": ("floor of k columns", "#555555", "5 3"),
        "reading_ms": ("floor of reading once", "#999999", "2 3"),
    }
    rows = result["growth"]
    values = [row[name] for row in rows for name in series]
    low, high = math.log(min(values)), math.log(max(values))

    def down(value: float) -> float:
        return top + side * (high - math.log(value)) / (high - low)

    body = ['<rect width="100%" height="100%" fill="white"/>']
    for panel, axis in enumerate("Tdk"):
        x0, mine = gap + panel * (side + gap), [row for row in rows if row["axis"] == axis]
        left, right = math.log(mine[0][axis]), math.log(mine[-1][axis])
        places = [x0 + side * (math.log(row[axis]) - left) / (right - left) for row in mine]
        body.append(
            f'<rect x="{x0}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#999"/>'
        )
        fixed = ", ".join(f"{name} = {mine[0][name]}" for name in "Tdk" if name != axis)
        body.append(
            f'<text x="{x0 + side / 2}" y="{top + side + 36}" text-anchor="middle">'
            f"{axis} ({fixed})</text>"
        )
        for power in range(math.ceil(low / math.log(10)), math.floor(high / math.log(10)) + 1):
            y = down(10.0**power)
            body.append(f'<path d="M{x0} {y:.1f}h{side}" stroke="#ddd"/>')
            body.append(
                f'<text x="{x0 - 5}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g} ms</text>'
            )
        for row, x in zip(mine, places, strict=True):
            body.append(
                f'<text x="{x:.1f}" y="{top + side + 18}" text-anchor="middle">{row[axis]}</text>'
            )
        for name, (_, colour, dashes) in series.items():
            points = " ".join(
                f"{x:.1f},{down(row[name]):.1f}" for row, x in zip(mine, places, strict=True)
            )
            body.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-dasharray="{dashes}"/>'
            )
    for place, (label, colour, dashes) in enumerate(series.values()):
        x = gap + 190 * place
        body.append(
            f'<path d="M{x} 16h24" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>'
        )
        body.append(f'<text x="{x + 30}" y="20">{label}</text>')
    width, height = 3 * (side + gap) + gap, top + side + 50
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11">{"".join(body)}</svg>\n'
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/performance"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--kinds", nargs="+", default=["photographs", "correlated", "independent"], choices=KINDS
    )
    parser.add_argument("--no-growth", action="store_true", help="leave the figure as it is")
    parser.add_argument(
        "--largest", type=int, default=16384, help="leave out shapes of more tokens"
    )
    args = parser.parse_args(argv)
    result: dict[str, Any] = {
        "machine": machine(),
        "load": round(os.getloadavg()[0], 2),
        "shapes": [],
        "sweeps": [],
    }
    for threads, kind in itertools.product(args.threads, args.kinds):
        torch.set_num_threads(threads)
        rates = machine_rates()
        for shape in SHAPES:
            for batch in (1, 16) if shape[0] <= LARGEST_BATCHED else (1,):
                # Of the largest shape one kind: textbook Gram-Schmidt takes most of a minute.
                enough = shape[0] > LARGEST_SQUARE and kind != args.kinds[-1]
                if shape[0] <= args.largest and not enough and has(kind, shape[0]):
                    took = time_shape(shape, kind, batch, args)
                    row = {"shape": shape, "kind": kind, "threads": threads, "batch": batch}
                    row |= {"ms": took, **bounds(*shape, rates)}
                    result["shapes"].append(row)
                    print(json.dumps(row), flush=True)
        if threads == args.threads[0]:
            for shape in (s for s in SWEEPS if s[0] <= args.largest and has(kind, s[0])):
                took = time_sweep(shape, kind, args.repeats)
                result["sweeps"].append({"shape": shape, "kind": kind, "ms": took})
                print(json.dumps(result["sweeps"][-1]), flush=True)
    torch.set_num_threads(args.threads[0])
    rates = machine_rates()
    result["growth"] = [] if args.no_growth else growth(args.kinds[-1], args.repeats)
    for row in result["growth"]:
        row |= bounds(row["T"], row["d"], row["k"], rates)
    result["load_at_end"] = round(os.getloadavg()[0], 2)
    args.out.mkdir(parents=True, exist_ok=True)
    texts = {"json": json.dumps(result), "md": markdown(result)}
    if result["growth"]:
        texts["svg"] = figure(result)
    for suffix, text in texts.items():
        write_text(args.out / f"selection.{suffix}", text)
    print(texts["md"])


if __name__ == "__main__":
    main()
