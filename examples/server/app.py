"""The server's routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from examples.server.answering import Answer, Job
from examples.server.batching import Batcher
from examples.server.limits import Limits, Refused
from examples.server.metrics import Metrics
from examples.server.uploads import read_image
from resprune import Energy, PruningConfig
from resprune.errors import ResPruneError

_log = logging.getLogger(__name__)
_NEW_TOKENS = 16  # where a request names no limit
_POLL = 0.25  # seconds between looks whether a client is still there


class Asked(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: str | None = None
    images: list[str] = Field(default_factory=list)
    question: str = Field(min_length=1)
    budget: int | float | None = None
    alpha: Annotated[float | int | None, Field(allow_inf_nan=False)] = None
    max_new_tokens: int | None = Field(default=None, ge=1)
    kept: bool = False


def create_app(
    answer: Callable[[Sequence[Job]], list[Answer]],
    config: PruningConfig,
    limits: Limits,
    budgets: Collection[int | float] | None = None,
) -> FastAPI:
    """Make the server.

    Args:
        answer: Answers jobs that go together; called in one thread.
        config: The pruning config that it serves.
        limits: What a request may ask.
        budgets: Budgets of the table that a request may name; None for all of them.

    Returns:
        The application, with ``app.state.batcher``.

    Raises:
        ConfigError: A budget that the config does not list.
    """
    metrics = Metrics()
    batcher = Batcher(answer, limits, metrics.batches.observe)
    metrics.watch(lambda: batcher.depth)
    allowed = _allowed(config, budgets)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()

    app = FastAPI(title="ResPrune example server", lifespan=lifespan)
    app.state.batcher = batcher

    @app.post("/v1/answer")
    async def answer_route(request: Request) -> Response:
        started = time.perf_counter()
        try:
            asked = _read(await _body(request, limits.body_bytes))
            job = await asyncio.to_thread(_job, asked, limits, allowed)
            found = await _wait(request, batcher, job, limits.answer_seconds)
        except Refused as refused:
            metrics.requests.labels(refused.status).inc()
            wait = {"Retry-After": "1"} if refused.status == 503 else {}
            return JSONResponse({"error": refused.message}, refused.status, wait)
        except ResPruneError as error:
            metrics.requests.labels(400).inc()
            return JSONResponse({"error": str(error)}, 400)
        except Exception:  # its text may name files of this machine: it is for the log alone
            _log.exception("a request failed")
            metrics.requests.labels(500).inc()
            return JSONResponse({"error": "the server failed; its log says why"}, 500)
        metrics.requests.labels(200).inc()
        metrics.seconds.observe(time.perf_counter() - started)
        metrics.count(found)
        return JSONResponse(_reply(found, asked.kept))

    @app.get("/healthz")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/config")
    def config_route() -> dict[str, Any]:
        return {
            "default": str(config.default),
            "budgets": list(allowed),
            "alpha": limits.alpha,
            "certificate": None
            if config.certificate is None
            else config.certificate.model_dump(mode="json", include={"claim", "split", "metric"}),
        }

    @app.get("/metrics")
    def metrics_route() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def _allowed(config: PruningConfig, budgets: Collection[int | float] | None) -> list[int | float]:
    """Budgets that a request may name, as it writes them."""
    listed = [
        getattr(policy.budget, "count", None) or getattr(policy.budget, "ratio", None)
        for policy in config.table
        if not isinstance(policy.budget, Energy)
    ]
    for budget in budgets or ():
        config.policy(budget)  # an error that lists those that exist
    return [each for each in listed if each is not None and (budgets is None or each in budgets)]


async def _body(request: Request, most: int) -> bytes:
    """Read a body, and stop reading one that is too large."""
    too_large = Refused(413, f"the body is over {most} bytes")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise too_large
    parts, total = [], 0
    async for part in request.stream():
        total += len(part)
        if total > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _read(body: bytes) -> Asked:
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise Refused(422, f"{place}: {first['msg']}") from None


def _job(asked: Asked, limits: Limits, budgets: Collection[int | float]) -> Job:
    """Check a request against the limits and decode its images."""
    sent = [*([] if asked.image is None else [asked.image]), *asked.images]
    if not 1 <= len(sent) <= limits.images:
        raise Refused(422, f"{len(sent)} images; give 1 to {limits.images}")
    if len(asked.question) > limits.question_characters:
        raise Refused(422, f"question is over {limits.question_characters} characters")
    new_tokens = min(_NEW_TOKENS, limits.new_tokens)
    if asked.max_new_tokens is not None:
        new_tokens = asked.max_new_tokens
    if new_tokens > limits.new_tokens:
        raise Refused(400, f"max_new_tokens {new_tokens} is over {limits.new_tokens}")
    if asked.budget is not None and asked.budget not in budgets:
        listed = ", ".join(map(str, budgets))
        raise Refused(400, f"budget {asked.budget} is not offered; offered are {listed}")
    if asked.alpha is not None and (
        limits.alpha is None or not limits.alpha[0] <= asked.alpha <= limits.alpha[1]
    ):
        offered = (
            "none may be given"
            if limits.alpha is None
            else f"give {limits.alpha[0]} to {limits.alpha[1]}"
        )
        raise Refused(400, f"alpha {asked.alpha}: {offered}")
    images = tuple(read_image(text, limits) for text in sent)
    alpha = None if asked.alpha is None else float(asked.alpha)
    return Job(images, asked.question, asked.budget, alpha, new_tokens)


async def _wait(request: Request, batcher: Batcher, job: Job, seconds: float) -> Answer:
    """Wait for an answer; a client that leaves takes its job along."""
    future = batcher.submit(job)
    waiting = asyncio.wrap_future(future)
    deadline = time.monotonic() + seconds
    while True:
        done, _ = await asyncio.wait({waiting}, timeout=_POLL)
        if done:
            try:
                return waiting.result()
            except asyncio.CancelledError:
                raise Refused(503, "the server stops") from None
        if time.monotonic() > deadline or await request.is_disconnected():
            future.cancel()
            raise Refused(504, f"no answer within {seconds:g} seconds")


def _reply(answer: Answer, kept: bool) -> dict[str, Any]:
    record = dict(answer.record)
    if record["pruned"]:
        record["kept_tokens"] = [len(each) for each in record["kept"]]
        if not kept:
            del record["kept"]
    return {
        "answer": answer.text,
        "finish_reason": "stop" if answer.ended else "length",
        "record": record,
    }
