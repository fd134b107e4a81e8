"""The sampler of a study: TPE that resumes to the digit, with budgets dealt in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

_STARTUP_TRIALS = 12
_MOST_DRAWS = 32  # of the joint model, until one names the budget that was dealt


class DealtSampler(BaseSampler):
    """TPE over a method's options and the budget, of which the budget is given.

    Every draw is seeded by what precedes it alone, and by the parameter too where parameters are
    drawn one by one. So a trial that an interruption cut short is drawn again to the digit.

    Args:
        seed: Words of the seed: the study's, the method, the place of the trial, the attempt.
        budget: Name of the budget dealt to the trial.
    """

    def __init__(self, seed: Sequence[int], budget: Any) -> None:
        self._seed = list(seed)
        self._budget = budget
        self._tpe = self._seeded("")

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Ask TPE."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw from the joint model until it names the budget, so that options fit the budget."""
        params: dict[str, Any] = {}
        for _ in range(_MOST_DRAWS):
            params = self._tpe.sample_relative(study, trial, search_space)
            if params.get("budget", self._budget) == self._budget:
                return params  # without a budget: a start-up trial, or a study of one budget
        return {**params, "budget": self._budget} if params else {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter, in the start-up trials."""
        if param_name == "budget":
            return self._budget
        tpe = self._seeded(param_name)
        return tpe.sample_independent(study, trial, param_name, param_distribution)

    def _seeded(self, name: str) -> TPESampler:
        words = [*self._seed, *name.encode()]
        return TPESampler(
            seed=int(np.random.SeedSequence(words).generate_state(1)[0]),
            n_startup_trials=_STARTUP_TRIALS,
            multivariate=True,  # the best alpha depends on the budget
            constant_liar=False,
            # of many candidates the one that wins names the same budget again and again
            n_ei_candidates=4,
        )
