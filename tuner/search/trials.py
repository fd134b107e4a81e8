"""The trials of a study: one Optuna study a method, in the one journal of the run folder.

Every trial's sampler is seeded from (study seed, trial number) and trials run one by one, so a
study that was interrupted and resumed goes through the same trials as one that was not.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resprune.setting import Setting
from tuner.results.schema import TrialResult
from tuner.search.objectives import Objective
from tuner.search.space import Space
from tuner.search.storage import journal

if TYPE_CHECKING:
    import optuna

_STARTUP_TRIALS = 12
_MOST_REPEATS = 40  # in a row, before the search space counts as exhausted


class MethodSearch:
    """The search of one method.

    Args:
        name: Name of its Optuna study.
        space: What is tried.
        objective: What is looked for.
        seed: The study's seed.
        storage: Optuna's storage.
        first: Settings to try first; those outside the space are left out.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        objective: Objective,
        seed: int,
        storage: Any,
        first: Sequence[Setting],
    ) -> None:
        import optuna

        self.space = space
        self._objective = objective
        self._seed = seed
        self._distributions = space.distributions()
        self._study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=list(objective.directions),
            sampler=self._sampler(0),
            load_if_exists=True,
        )
        for setting in first:
            params = space.params(setting)
            if params is not None:
                self._study.enqueue_trial(params, skip_if_exists=True)

    def step(self, evaluate: Callable[[Setting], tuple[float, int]], floor: float | None) -> bool:
        """Run one trial; False when there seems to be no setting left to try.

        Args:
            evaluate: Scores a setting on the tune split: its mean score and mean count of tokens.
            floor: Mean score that trials must reach, None where there is none.
        """
        import optuna

        trial = self._new_trial()
        if trial is None:
            return False
        begin = time.perf_counter()
        score, tokens = evaluate(self.space.setting(trial.params))
        trial.set_user_attr("score", score)
        trial.set_user_attr("tokens", tokens)
        trial.set_user_attr("seconds", round(time.perf_counter() - begin, 4))
        if floor is not None:
            trial.set_constraint("quality-floor", floor - score)
        values = self._objective.values(score, tokens)
        self._study.tell(trial, values, state=optuna.trial.TrialState.COMPLETE)
        return True

    def trials(self) -> list[TrialResult]:
        """Return the complete trials by number."""
        return [
            TrialResult(
                number=trial.number,
                setting=self.space.setting(trial.params),
                tokens=int(trial.user_attrs["tokens"]),
                score=float(trial.user_attrs["score"]),
                seconds=float(trial.user_attrs["seconds"]),
            )
            for trial in self._complete()
        ]

    def importances(self) -> dict[str, float]:
        """Return how much of the score's variance each parameter explains, summing to 1 (fANOVA).

        optuna's default, PED-ANOVA, answers another question (what the best tenth of the trials
        have in common) and takes lower targets for better. Empty where there are too few
        trials, or nothing varies.
        """
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = optuna.importance.get_param_importances(
                    self._study,
                    evaluator=optuna.importance.FanovaImportanceEvaluator(seed=self._seed),
                    target=lambda trial: float(trial.user_attrs["score"]),
                )
            except (ValueError, RuntimeError):
                return {}
        return {name: float(value) for name, value in found.items() if np.isfinite(value)}

    def _complete(self) -> list[Any]:
        import optuna

        states = (optuna.trial.TrialState.COMPLETE,)
        return self._study.get_trials(deepcopy=False, states=states)

    def _sampler(self, number: int) -> Any:
        import optuna

        seed = np.random.SeedSequence([self._seed, number]).generate_state(1)[0]
        return optuna.samplers.TPESampler(
            seed=int(seed),
            n_startup_trials=_STARTUP_TRIALS,
            multivariate=True,  # the best alpha depends on the budget
            constant_liar=False,
        )

    def _new_trial(self) -> optuna.trial.Trial | None:
        """Ask for a trial whose parameters were not tried yet; None when there seems to be none.

        The sampler knows nothing of what repeats; a repeated trial is marked as failed, which
        samplers ignore, and the next number draws with a seed of its own.
        """
        import optuna

        tried = {self.space.setting(trial.params) for trial in self._complete()}
        for _ in range(_MOST_REPEATS):
            trial = self._next()
            for name, space in self._distributions.items():
                trial._suggest(name, space)
            if self.space.setting(trial.params) not in tried:
                return trial
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return None

    def _next(self) -> optuna.trial.Trial:
        """Go on with the trial that an interruption left running, else ask for the next one."""
        import optuna

        trials = self._study.get_trials(deepcopy=False)
        left = [t for t in trials if t.state == optuna.trial.TrialState.RUNNING]
        waiting = [t for t in trials if t.state == optuna.trial.TrialState.WAITING]
        upcoming = (left or waiting)[0].number if left or waiting else len(trials)
        self._study.sampler = self._sampler(upcoming)
        return optuna.trial.Trial(self._study, left[0]._trial_id) if left else self._study.ask()


class Search:
    """The search of a study over its methods.

    Args:
        name: Name of the study.
        spaces: What is tried of each method.
        objective: What is looked for.
        seed: The study's seed.
        run_dir: The run folder.
        first: Settings to try first, by method.

    Raises:
        StudyError: The journal is damaged or cannot be written.
    """

    def __init__(
        self,
        name: str,
        spaces: Sequence[Space],
        objective: Objective,
        seed: int,
        run_dir: Path,
        first: Mapping[str, Sequence[Setting]],
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with journal(run_dir) as storage:
            self._searches = {
                space.method: MethodSearch(
                    name if len(spaces) == 1 else f"{name}.{space.method}",
                    space,
                    objective,
                    seed,
                    storage,
                    first.get(space.method, ()),
                )
                for space in spaces
            }

    def run(
        self,
        total: int,
        evaluate: Callable[[Setting], tuple[float, int]],
        floor: float | None,
        report: Callable[[TrialResult, int], None],
    ) -> None:
        """Run the trials that are missing, dealt over the methods in turn.

        Args:
            total: Trials of each method, those before an interruption included.
            evaluate: Scores a setting on the tune split: its mean score and mean count of tokens.
            floor: Mean score that trials must reach, None where there is none.
            report: Told each trial, and how many are complete.
        """
        open_ = list(self._searches.values())
        while open_:
            for search in list(open_):
                if len(search.trials()) >= total or not search.step(evaluate, floor):
                    open_.remove(search)
                    continue
                report(search.trials()[-1], len(self.trials()))

    def trials(self) -> list[TrialResult]:
        """Return the complete trials, method by method."""
        return [trial for search in self._searches.values() for trial in search.trials()]

    def importances(self) -> dict[str, dict[str, float]]:
        """Return each method's ``MethodSearch.importances``."""
        return {name: search.importances() for name, search in self._searches.items()}
