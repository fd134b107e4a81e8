"""How far what the pruned model expects lies from what the unpruned one does: KL divergence.

Source: Kullback and Leibler (1951), of the next-token distributions at every token of the unpruned
model's answer and at its end; a mean over these, in nats.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from resprune.plan import Plan
from tuner.scoring.llm import Job, Runner
from tuner.scoring.outcomes import Outcome
from tuner.scoring.prompts import Prompts


class Divergence:
    """What the unpruned model expects on one split's samples, to compare others with.

    It is computed once, and lies in a temporary file of (tokens of all answers + N) x V float32
    numbers.

    Args:
        runner: Runs the model.
        prompts: The prompts, the unpruned model's answers behind them.
        unpruned: Its plans, one a sample.
    """

    def __init__(self, runner: Runner, prompts: Prompts, unpruned: Sequence[Plan]) -> None:
        rows = [len(prompts.answer(i)) + 1 for i in range(len(unpruned))]
        self._ends = np.cumsum(rows)
        self._starts = self._ends - rows
        self._whole: np.memmap[tuple[int, int], np.dtype[np.float32]] | None = None
        with tempfile.TemporaryFile() as file:
            jobs = [Job(i, plan) for i, plan in enumerate(unpruned)]
            for places, found in runner.chances(jobs, prompts):
                for place, chances in zip(places, found, strict=True):
                    if self._whole is None:
                        shape = (int(self._ends[-1]), chances.shape[1])
                        self._whole = np.memmap(file, np.float32, "w+", shape=shape)
                    self._whole[self._starts[place] : self._ends[place]] = chances.numpy()

    def run(
        self, jobs: Sequence[Job], runner: Runner, prompts: Prompts
    ) -> Iterator[tuple[list[int], list[Outcome]]]:
        """Compare jobs with it.

        Args:
            jobs: What to compare.
            runner: Runs the model on what they name.
            prompts: Their prompts, the unpruned model's answers behind them.

        Yields:
            Places in ``jobs``, and outcomes whose likelihood is minus the divergence.
        """
        for places, found in runner.chances(jobs, prompts):
            outcomes = [
                Outcome(None, -self._of(jobs[place].sample, chances))
                for place, chances in zip(places, found, strict=True)
            ]
            yield places, outcomes

    def _of(self, sample: int, chances: Tensor) -> float:
        assert self._whole is not None
        rows = self._whole[self._starts[sample] : self._ends[sample]]
        whole = torch.from_numpy(np.array(rows)).double()
        share = whole.exp()
        apart = torch.where(share > 0, share * (whole - chances.double()), 0.0)
        return max(0.0, float(apart.sum(dim=-1).mean()))
