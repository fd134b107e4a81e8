"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from examples.server.answering import Answer


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self.requests = Counter("requests", "Requests by status.", ["status"], registry=own)
        self.seconds = Histogram("answer_seconds", "Seconds an answer took.", registry=own)
        self.batches = Histogram(
            "batch_size", "Requests of a batch.", buckets=(1, 2, 4, 8, 16, 32), registry=own
        )
        self._depth = Gauge("waiting", "Requests that wait.", registry=own)
        self._seen = Counter("visual_tokens", "Visual tokens of images.", registry=own)
        self._kept = Counter("visual_tokens_kept", "Visual tokens kept.", registry=own)
        self._unlike = Counter(
            "unlike_fitted", "Prompts unlike those an adaptive policy was fitted on.", registry=own
        )

    def watch(self, depth: Callable[[], int]) -> None:
        """Read the length of the queue when asked."""
        self._depth.set_function(depth)

    def count(self, answer: Answer) -> None:
        """Count an answer's visual tokens."""
        record = answer.record
        if record["pruned"]:
            self._seen.inc(sum(record["visual_tokens"]))
            self._kept.inc(sum(map(len, record["kept"])))
            self._unlike.inc(record["unlike_fitted"])

    def text(self) -> bytes:
        """Return them as Prometheus reads them."""
        return generate_latest(self._registry)
