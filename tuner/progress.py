"""Who is told how a study gets on."""

from __future__ import annotations

from typing import Protocol

from tuner.results.schema import TrialResult


class Progress(Protocol):
    """Told how a study gets on."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def step(self, done: int, total: int) -> None:
        """Some outcomes or images of the stage are done."""

    def trial(self, trial: TrialResult, done: int, total: int) -> None:
        """A trial is complete."""


class Silent:
    """Tells nobody."""

    def stage(self, name: str) -> None:
        """Do nothing."""

    def step(self, done: int, total: int) -> None:
        """Do nothing."""

    def trial(self, trial: TrialResult, done: int, total: int) -> None:
        """Do nothing."""
