"""Metrics: what an outcome is worth. One class each, found by name."""

from __future__ import annotations

import math
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from resprune.errors import StudyError, near_names
from tuner.scoring.outcomes import Outcome

Floats = npt.NDArray[np.float64]
Kind = Literal["answer", "log_likelihood", "divergence"]
_PUNCTUATION = str.maketrans("", "", string.punctuation)
LEAST_LOG_LIKELIHOOD = -6.0
"""Below, in nats, a loss says no more than 'wrong'."""


def normalized(answer: str) -> str:
    """Lower the case, strip punctuation and white space: what exact match compares."""
    return " ".join(answer.lower().translate(_PUNCTUATION).split())


class Metric(ABC):
    """How outcomes are scored, and what losing some of the score means.

    Attributes:
        name: Its name in studies.
        kind: Outcomes it reads.
        needs_gold: Whether every sample needs a gold answer.
        meaning: What its mean is, for people.
        ends: Least and greatest score of a sample.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind] = "answer"
    needs_gold: ClassVar[bool] = True
    meaning: ClassVar[str]
    ends: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @abstractmethod
    def score(
        self, outcome: Outcome, right: Callable[[str], float], reference: str | None
    ) -> float:
        """Score one outcome.

        Args:
            outcome: What the pruned model gave.
            right: The task's score of an answer to this sample.
            reference: The unpruned model's answer, where the metric ``compares``.
        """

    @property
    def bounded(self) -> bool:
        """Whether scores lie from 0 to 1."""
        return self.ends == (0.0, 1.0)

    compares: ClassVar[bool] = False
    """Whether the unpruned model's answers are its reference."""

    def floor(self, unpruned: float, lost: float) -> float:
        """Return the mean score that may not be fallen below, a share ``lost`` under unpruned."""
        return unpruned * (1 - lost)

    def losses(self, scores: Floats) -> Floats:
        """Return the loss of each score, 0 for the best."""
        return np.asarray(1.0 - scores)


class Score(Metric):
    """The task's own score."""

    name = "score"
    meaning = "share of questions answered right, by the task's own rule"

    def score(
        self, outcome: Outcome, right: Callable[[str], float], reference: str | None
    ) -> float:
        """Ask the task."""
        return right(str(outcome.answer))


class LogLikelihood(Metric):
    """The log-likelihood of the gold answer."""

    name = "log_likelihood"
    kind: ClassVar[Kind] = "log_likelihood"
    ends = (-math.inf, 0.0)
    meaning = "log-likelihood of the right answer, in nats; 0 is the best there is"

    def score(
        self, outcome: Outcome, right: Callable[[str], float], reference: str | None
    ) -> float:
        """Read it."""
        assert outcome.likelihood is not None
        return outcome.likelihood

    def floor(self, unpruned: float, lost: float) -> float:
        """Log-likelihoods are compared in nats."""
        return unpruned - lost

    def losses(self, scores: Floats) -> Floats:
        """The negative, floored."""
        losses: Floats = -np.maximum(scores, LEAST_LOG_LIKELIHOOD)
        return losses


class Fidelity(Metric):
    """Agreement with the unpruned model's own answers."""

    name = "fidelity"
    needs_gold = False
    compares = True
    meaning = "share of questions answered as the model itself answers with all tokens"

    def score(
        self, outcome: Outcome, right: Callable[[str], float], reference: str | None
    ) -> float:
        """Compare normalised answers."""
        return float(normalized(str(outcome.answer)) == normalized(str(reference)))


class Divergence(LogLikelihood):
    """Minus the Kullback-Leibler divergence of what the pruned model expects from the unpruned.

    A mean over the tokens of the unpruned model's own answer and the end of it, in nats.
    """

    name = "kl"
    kind: ClassVar[Kind] = "divergence"
    needs_gold = False
    compares = True
    meaning = (
        "minus the KL divergence of the next token from the unpruned model's, a mean over the "
        "tokens of its answer, in nats; 0 is the best there is"
    )


_METRICS: dict[str, Metric] = {
    cls.name: cls() for cls in (Score, LogLikelihood, Fidelity, Divergence)
}


def names() -> Sequence[str]:
    """Return the names of every metric."""
    return list(_METRICS)


def get(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        StudyError: An unknown name; near names are suggested.
    """
    if name not in _METRICS:
        raise StudyError(f"unknown metric {name!r}. {near_names(name, _METRICS)}")
    return _METRICS[name]
