"""A bounded load test on loopback: ``python -m examples.server.load --budgets 1.0 43``.

Budgets take turns at each concurrency, and each turn's ratio is to the first budget's of its round.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import ipaddress
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

MOST_REQUESTS, MOST_CONCURRENCY, MOST_SECONDS = 2000, 64, 300.0


@dataclass(frozen=True)
class Turn:
    """What one budget did.

    Attributes:
        budget: The budget.
        concurrency: Requests in flight.
        rate: Answers a second.
        median: Median milliseconds of an answer.
        slow: The 95th percentile.
        errors: Requests that were not answered.
    """

    budget: int | float
    concurrency: int
    rate: float
    median: float
    slow: float
    errors: int


def check_bounds(url: str, requests: int, concurrency: Sequence[int]) -> None:
    """Refuse to load what is not this machine, or too much.

    Raises:
        SystemExit: Says what is allowed.
    """
    host = urlsplit(url).hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if not here:
        raise SystemExit(f"--url {url}: only a server on this machine may be loaded")
    if requests > MOST_REQUESTS or max(concurrency) > MOST_CONCURRENCY:
        raise SystemExit(f"at most {MOST_REQUESTS} requests, {MOST_CONCURRENCY} in flight")


async def run_turn(
    url: str, image: str, budget: int | float, requests: int, concurrency: int
) -> Turn:
    """Send requests, ``concurrency`` of them in flight, for at most five minutes."""
    body = {"image": image, "question": "What color is the star?", "budget": budget}
    left = iter(range(requests))
    taken: list[float] = []
    errors = 0
    stop = time.perf_counter() + MOST_SECONDS

    async def work(client: httpx.AsyncClient) -> None:
        nonlocal errors
        for _ in left:
            started = time.perf_counter()
            if started > stop:
                return
            reply = await client.post(f"{url}/v1/answer", json=body)
            errors += reply.status_code != 200
            taken.append(1e3 * (time.perf_counter() - started))

    began = time.perf_counter()
    async with httpx.AsyncClient(timeout=120) as client:
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
    took = time.perf_counter() - began
    taken.sort()
    slow = taken[min(len(taken) - 1, round(0.95 * len(taken)))]
    rate = len(taken) / took
    return Turn(budget, concurrency, rate, statistics.median(taken), slow, errors)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the load test."""
    parser = argparse.ArgumentParser(prog="python -m examples.server.load", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--image", type=Path, required=True, help="a PNG, JPEG or WebP file")
    parser.add_argument("--budgets", nargs="+", required=True, help="as requests name them")
    parser.add_argument("--requests", type=int, default=64, help="requests a turn")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    check_bounds(args.url, args.requests, args.concurrency)
    budgets = [float(text) if "." in text else int(text) for text in args.budgets]
    image = base64.b64encode(args.image.read_bytes()).decode()
    draw = random.Random(0)
    rounds: list[dict[int | float, Turn]] = []
    for concurrency in args.concurrency:
        for _ in range(args.rounds):
            order = draw.sample(budgets, len(budgets))
            turns = [
                asyncio.run(run_turn(args.url, image, budget, args.requests, concurrency))
                for budget in order
            ]
            rounds.append({turn.budget: turn for turn in turns})
    if args.json:
        print(json.dumps([asdict(turn) for turns in rounds for turn in turns.values()]))
        return
    first = budgets[0]
    print(f"| in flight | budget | answers/s | times budget {first} | median, ms | 95 % | errors |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for concurrency in args.concurrency:
        own = [turns for turns in rounds if turns[first].concurrency == concurrency]
        for budget in budgets:
            turns = [each[budget] for each in own]
            ratios = [each[budget].rate / each[first].rate for each in own]
            print(
                f"| {concurrency} | {budget} | {statistics.median(t.rate for t in turns):.1f} "
                f"| {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] "
                f"| {statistics.median(t.median for t in turns):.0f} "
                f"| {statistics.median(t.slow for t in turns):.0f} "
                f"| {sum(t.errors for t in turns)} |"
            )


if __name__ == "__main__":
    main()
