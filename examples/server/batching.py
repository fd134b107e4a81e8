"""Requests that wait for the model: one thread runs it, and takes those that go together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from examples.server.answering import Answer, Job
from examples.server.limits import Limits, Refused


@dataclass(eq=False)
class _Waiting:
    job: Job
    future: Future[Answer] = field(default_factory=Future)


class Batcher:
    """Runs jobs in batches, in a thread of its own.

    A job whose future is cancelled before its batch starts is dropped. Where a batch fails, its
    jobs are run one by one, so that each fails for itself alone.

    Args:
        answer: Answers jobs that go together.
        limits: Length of the queue, size and patience of a batch.
        on_batch: Told the size of each batch.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Job]], list[Answer]],
        limits: Limits,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._answer = answer
        self._limits = limits
        self._on_batch = on_batch
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[Answer]:
        """Queue a job.

        Raises:
            Refused: The queue is full, or the server stops.
        """
        waiting = _Waiting(job)
        with self._changed:
            if self._closed:
                raise Refused(503, "the server stops")
            if len(self._queue) >= self._limits.queue:
                raise Refused(503, "too many requests are waiting; try again in a second")
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.future

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    def close(self) -> None:
        """Refuse what waits, and stop after the batch at hand."""
        with self._changed:
            self._closed = True
            while self._queue:
                self._queue.popleft().future.cancel()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            running = [each for each in batch if each.future.set_running_or_notify_cancel()]
            if running:
                self._on_batch(len(running))
                self._finish(running)

    def _next(self) -> list[_Waiting] | None:
        """Wait for a job, then a moment for others that go with it; None when closed."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait()
            together = self._queue[0].job.together
            deadline = time.monotonic() + self._limits.wait_seconds
            while self._count(together) < self._limits.batch and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            taken = [each for each in self._queue if each.job.together == together]
            taken = taken[: self._limits.batch]
            for each in taken:
                self._queue.remove(each)
            return taken

    def _count(self, together: tuple[object, ...]) -> int:
        return sum(each.job.together == together for each in self._queue)

    def _finish(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = self._answer([each.job for each in batch])
        except Exception as error:  # whatever a model raises belongs to the request that met it
            if len(batch) > 1:
                for each in batch:
                    self._finish([each])
            else:
                batch[0].future.set_exception(error)
            return
        for each, answer in zip(batch, answers, strict=True):
            each.future.set_result(answer)
