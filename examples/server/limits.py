"""What a request may ask, and what one that asks for more is told."""

from __future__ import annotations

from dataclasses import dataclass


class Refused(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        message: What is wrong and what is allowed; for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body_bytes: Largest body.
        pixels: Largest image, before it is decoded.
        images: Most images of a request.
        question_characters: Longest question.
        new_tokens: Most new tokens.
        alpha: Least and greatest alpha that a request may set; None where it may set none.
        queue: Requests that may wait.
        batch: Requests of one batch.
        wait_seconds: How long the first of a batch waits for others.
        answer_seconds: How long a request may take with its waiting.
    """

    body_bytes: int = 8 * 1024 * 1024
    pixels: int = 20_000_000
    images: int = 4
    question_characters: int = 2000
    new_tokens: int = 64
    alpha: tuple[float, float] | None = None
    queue: int = 64
    batch: int = 8
    wait_seconds: float = 0.005
    answer_seconds: float = 120.0
