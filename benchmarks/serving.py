"""What pruning buys a server: ``python -m benchmarks.serving --out docs/performance``.

Starts vLLM's OpenAI-compatible server on a random LLaVA-1.5 and sends it chat requests with images,
at several concurrencies, with and without its prefix cache. Every policy, the unpruned model's too,
is a budget of one server, and they take turns, so that a machine that slows down slows all of
them; ratios are within a turn. A second part runs the engine in this process and says how much of
its time the selection takes. Runs where vLLM is installed (``make serve-env``).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from resprune import PruningConfig, Setting
from resprune.files import write_text

TOKENS = 576
BUDGET = 64
NEW_TOKENS = 8
NOUNS = ("star", "dog", "bottle", "window", "sign", "wheel", "bird", "lamp")
UNPRUNED = "unpruned"
SIZES: dict[str, dict[str, int]] = {
    # tower to decoder as in LLaVA-1.5-7b: about one parameter to twenty
    "small": {"tower": 192, "tower_layers": 5, "width": 768, "layers": 6},
    "tiny": {"tower": 64, "tower_layers": 2, "width": 128, "layers": 1},
}


def policies() -> dict[str, Setting]:
    """The policies of the server, each at a budget of its own."""
    own: dict[str, Any] = {"positions": "compact"}
    return {
        UNPRUNED: Setting.of("unpruned", 1.0),
        "resprune, alpha 0.75": Setting.of("resprune", BUDGET, alpha=0.75, **own),
        "resprune, alpha 0": Setting.of("resprune", BUDGET + 1, alpha=0.0, **own),
        "l2_norm": Setting.of("l2_norm", BUDGET - 1, **own),
    }


def budget_of(setting: Setting) -> int | float:
    """The budget that a request names a policy by."""
    return getattr(setting.budget, "count", None) or setting.budget.ratio


def write_model(folder: Path, size: dict[str, int]) -> None:
    """Save a random LLaVA-1.5 with images of 336 pixels, 576 tokens, and its config."""
    import torch
    import transformers

    from resprune.testing.tiny import tiny_llava_processor

    library: Any = transformers
    processor = tiny_llava_processor(image_size=336, patch_size=14)
    vocabulary = len(processor.tokenizer)
    heads = max(size["width"] // 128, 2)
    config = library.LlavaConfig(
        vision_config=library.CLIPVisionConfig(
            hidden_size=size["tower"],
            intermediate_size=4 * size["tower"],
            num_hidden_layers=size["tower_layers"],
            num_attention_heads=max(size["tower"] // 64, 2),
            image_size=336,
            patch_size=14,
        ),
        text_config=library.LlamaConfig(
            hidden_size=size["width"],
            intermediate_size=11 * size["width"] // 4,
            num_hidden_layers=size["layers"],
            num_attention_heads=heads,
            num_key_value_heads=heads,
            vocab_size=vocabulary,
            max_position_embeddings=4096,
        ),
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    library.LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def picture(seed: int) -> str:
    """A picture of coloured shapes, as a data URL."""
    draw = random.Random(seed)
    image = Image.new("RGB", (336, 336), tuple(draw.choices(range(256), k=3)))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = draw.randrange(300), draw.randrange(300)
        box = (x, y, x + draw.randrange(10, 120), y + draw.randrange(10, 120))
        pen.ellipse(box, fill=tuple(draw.choices(range(256), k=3)))
    content = io.BytesIO()
    image.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


@dataclass(frozen=True)
class Request:
    """A question about a picture.

    Attributes:
        url: The picture.
        question: The question.
    """

    url: str
    question: str


def requests(count: int, each: int, seed: int) -> list[Request]:
    """Requests in a random order, ``each`` questions a picture; no seed gives a picture twice."""
    draw = random.Random(seed)
    found = []
    for number in range(-(-count // each)):
        url = picture(100_003 * seed + number)
        nouns = draw.sample(NOUNS, each)
        found += [Request(url, f"What is next to the {noun} in picture {seed}?") for noun in nouns]
    draw.shuffle(found)
    return found[:count]


@dataclass(frozen=True)
class Turn:
    """What one policy did with one list of requests.

    Attributes:
        policy: The policy.
        concurrency: Requests in flight.
        prompt: Mean prompt tokens.
        rate: Requests a second.
        first: Median milliseconds to the first token.
        slow: The 95th percentile of these.
    """

    policy: str
    concurrency: int
    prompt: float
    rate: float
    first: float
    slow: float


async def run_turn(
    address: str, model: str, policy: str, asked: Sequence[Request], concurrency: int
) -> Turn:
    """Send requests, ``concurrency`` of them in flight."""
    import httpx

    budget = budget_of(policies()[policy])
    first: list[float] = []
    prompt: list[int] = []
    waiting = asyncio.Queue[Request]()
    for each in asked:
        waiting.put_nowait(each)

    async def work(client: Any) -> None:
        while not waiting.empty():
            each = waiting.get_nowait()
            content = [
                {"type": "image_url", "image_url": {"url": each.url}},
                {"type": "text", "text": each.question},
            ]
            body = {
                "model": model,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": NEW_TOKENS,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
                "mm_processor_kwargs": {"resprune_budget": budget},
            }
            started = time.perf_counter()
            seen = False
            async with client.stream("POST", f"{address}/v1/chat/completions", json=body) as reply:
                if reply.status_code != 200:
                    text = (await reply.aread()).decode()
                    raise RuntimeError(f"the server answered {reply.status_code}: {text[:300]}")
                async for line in reply.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    data = json.loads(line.removeprefix("data: "))
                    if data["choices"] and data["choices"][0]["delta"].get("content") and not seen:
                        first.append(1e3 * (time.perf_counter() - started))
                        seen = True
                    if data.get("usage"):
                        prompt.append(data["usage"]["prompt_tokens"])

    began = time.perf_counter()
    async with httpx.AsyncClient(timeout=600) as client:
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
    took = time.perf_counter() - began
    first.sort()
    return Turn(
        policy,
        concurrency,
        statistics.mean(prompt),
        len(asked) / took,
        statistics.median(first) if first else float("nan"),
        first[min(len(first) - 1, round(0.95 * len(first)))] if first else float("nan"),
    )


@contextlib.contextmanager
def server(model: Path, config: Path, prefix_cache: bool, log: Path) -> Iterator[str]:
    """Run vLLM's server; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", "random"),
        *("--hf-overrides", json.dumps({"resprune": str(config)})),
        *("--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "32"),
        *("--host", "127.0.0.1", "--port", str(port), "--trust-request-mm-kwargs"),
        "--enable-prefix-caching" if prefix_cache else "--no-enable-prefix-caching",
    ]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **os.environ,
    }
    with log.open("w", encoding="utf-8") as output:
        running = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, running, log)
            yield address
        finally:
            os.killpg(running.pid, signal.SIGKILL)  # the engine's process too
            running.wait()


def _wait_for(address: str, running: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    for _ in range(600):
        if running.poll() is not None:
            end = log.read_text(encoding="utf-8")[-2000:]
            raise RuntimeError(f"the server stopped with {running.returncode}:\n{end}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/health").status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"the server does not answer; its log is {log}")


def measure(address: str, args: Any, each: int, seed: int) -> list[list[Turn]]:
    """Rounds of turns at each concurrency: every policy with the same requests, in turn."""
    draw = random.Random(seed)
    rounds = []
    for concurrency in args.concurrency:
        for number in range(args.rounds):
            asked = requests(args.requests, each, seed + 1000 * concurrency + number)
            order = list(policies())
            draw.shuffle(order)
            rounds.append(
                [
                    asyncio.run(run_turn(address, "random", policy, asked, concurrency))
                    for policy in order
                ]
            )
            print(f"concurrency {concurrency}, round {number + 1} of {args.rounds}", flush=True)
    return rounds


def summarise(rounds: Sequence[Sequence[Turn]]) -> list[dict[str, Any]]:
    """Medians over rounds, and the ratio to the unpruned turn of the same round."""
    rows = []
    for concurrency in dict.fromkeys(turn.concurrency for turns in rounds for turn in turns):
        own = [turns for turns in rounds if turns[0].concurrency == concurrency]
        for policy in policies():
            pairs = [
                (
                    next(turn for turn in turns if turn.policy == policy),
                    next(turn for turn in turns if turn.policy == UNPRUNED),
                )
                for turns in own
            ]
            ratios = sorted(ours.rate / theirs.rate for ours, theirs in pairs)
            faster = sorted(theirs.first / ours.first for ours, theirs in pairs)
            median = statistics.median
            rows.append(
                {
                    "concurrency": concurrency,
                    "policy": policy,
                    "prompt": median(ours.prompt for ours, _ in pairs),
                    "rate": median(ours.rate for ours, _ in pairs),
                    "times": median(ratios),
                    "range": [ratios[0], ratios[-1]],
                    "first": median(ours.first for ours, _ in pairs),
                    "slow": median(ours.slow for ours, _ in pairs),
                    "first_times": median(faster),
                }
            )
    return rows


def shares(model: Path, config: Path, args: Any) -> list[dict[str, Any]]:
    """The selection's share of the engine's time, and of the tower's, 32 requests at once."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="2")
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(model),
        hf_overrides={"resprune": str(config)},
        dtype="float32",
        max_model_len=1024,
        max_num_seqs=32,
        enable_prefix_caching=False,
    )
    engine: Any = llm.llm_engine
    spent = engine.model_executor.driver_worker.worker.get_model()._selecting.spent
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    rows = []
    for number, (policy, setting) in enumerate(policies().items()):
        for attempt in range(2):  # the first one warms up
            asked = requests(args.requests, 1, 7 + 10 * number + attempt)
            before = asdict(spent)
            began = time.perf_counter()
            llm.chat(
                [_turn(each) for each in asked],
                sampling,
                use_tqdm=False,
                mm_processor_kwargs={"resprune_budget": budget_of(setting)},
            )
            took = time.perf_counter() - began
        after = asdict(spent)
        images = after["images"] - before["images"]
        selecting = after["selecting"] - before["selecting"]
        encoding = after["encoding"] - before["encoding"]
        rows.append(
            {
                "policy": policy,
                "seconds": took,
                "selecting_ms": 1e3 * selecting / images,
                "encoding_ms": 1e3 * encoding / images,
                "selecting_share": selecting / took,
                "encoding_share": encoding / took,
            }
        )
    return rows


def _turn(each: Request) -> list[dict[str, Any]]:
    content = [
        {"type": "image_url", "image_url": {"url": each.url}},
        {"type": "text", "text": each.question},
    ]
    return [{"role": "user", "content": content}]


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "<!-- written by python -m benchmarks.serving -->",
        f"{result['machine']}. {result['requests']} requests a turn of {NEW_TOKENS} new tokens, "
        f"{result['rounds']} rounds; medians, with the least and greatest ratio.",
    ]
    for name, rows in result["servers"].items():
        lines += [
            f"\n**{name}**\n",
            "| in flight | policy | prompt tokens | requests/s | times unpruned | first token, ms "
            "| 95 % | times sooner |",
            "|---:|---|---:|---:|---:|---:|---:|---:|",
        ]
        for row in rows:
            low, high = row["range"]
            own = row["policy"] == UNPRUNED
            times = "1" if own else f"{row['times']:.2f} [{low:.2f}, {high:.2f}]"
            sooner = "1" if own else f"{row['first_times']:.2f}"
            lines.append(
                f"| {row['concurrency']} | {row['policy']} | {row['prompt']:.0f} "
                f"| {row['rate']:.2f} | {times} | {row['first']:.0f} | {row['slow']:.0f} "
                f"| {sooner} |"
            )
    lines += [
        "\n**The engine's time, 32 requests at once, no prefix cache**\n",
        "| policy | selection, ms an image | share | tower, ms an image | share |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['policy']} | {row['selecting_ms']:.1f} | {100 * row['selecting_share']:.1f} % "
        f"| {row['encoding_ms']:.1f} | {100 * row['encoding_share']:.1f} % |"
        for row in result["engine"]
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of serving.json and .md")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--requests", type=int, default=32, help="requests a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    settings = list(policies().values())
    config = PruningConfig.from_dict({"default": settings[1].budget, "table": settings})
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder / "model", SIZES[args.size])
        config.save_pretrained(folder / "config")
        servers = {}
        for name, cache, each in (
            ("no prefix cache, a question a picture", False, 1),
            ("prefix cache, four questions a picture", True, 4),
        ):
            log = folder / f"server-{each}.log"
            with server(folder / "model", folder / "config", cache, log) as address:
                asyncio.run(_warm_up(address))
                servers[name] = summarise(measure(address, args, each, args.seed))
        engine = shares(folder / "model", folder / "config", args)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, no GPU",
        "size": SIZES[args.size],
        "requests": args.requests,
        "rounds": args.rounds,
        "servers": servers,
        "engine": engine,
    }
    write_text(args.out / "serving.json", json.dumps(result, indent=1) + "\n")
    write_text(args.out / "serving.md", markdown(result))
    print(markdown(result))


async def _warm_up(address: str) -> None:
    for policy in policies():
        await run_turn(address, "random", policy, requests(4, 1, 99), 2)


if __name__ == "__main__":
    main()
