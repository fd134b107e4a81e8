"""``python -m examples.server MODEL CONFIG``: serve a model with an exported config."""

from __future__ import annotations

import argparse
import logging

import uvicorn

from examples.server.answering import Answerer
from examples.server.app import create_app
from examples.server.limits import Limits
from resprune import PruningConfig


def _budget(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def main() -> None:
    """Load the model and serve until stopped."""
    own = Limits()
    parser = argparse.ArgumentParser(prog="python -m examples.server", description=__doc__)
    parser.add_argument("model", help="folder or hub id")
    parser.add_argument("config", help="folder that a study exported, or hub id")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--budgets", type=_budget, nargs="+", help="those that requests may name")
    parser.add_argument(
        "--alpha", type=float, nargs=2, metavar=("LOW", "HIGH"), help="alphas that requests may set"
    )
    parser.add_argument("--max-body-mb", type=float, default=own.body_bytes / 2**20)
    parser.add_argument("--max-pixels", type=int, default=own.pixels)
    parser.add_argument("--max-new-tokens", type=int, default=own.new_tokens)
    parser.add_argument("--batch", type=int, default=own.batch)
    parser.add_argument("--wait-ms", type=float, default=1e3 * own.wait_seconds)
    parser.add_argument("--queue", type=int, default=own.queue)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    config = PruningConfig.from_pretrained(args.config)
    limits = Limits(
        body_bytes=int(args.max_body_mb * 2**20),
        pixels=args.max_pixels,
        new_tokens=args.max_new_tokens,
        alpha=None if args.alpha is None else tuple(args.alpha),
        queue=args.queue,
        batch=args.batch,
        wait_seconds=args.wait_ms / 1e3,
    )
    answerer = Answerer(args.model, config, args.dtype)
    app = create_app(answerer, config, limits, args.budgets)
    uvicorn.run(app, host=args.host, port=args.port)


if __name__ == "__main__":
    main()
