"""The trials of a study: one Optuna study a method, in the one journal of the run folder.

Trials run one by one, and what a trial draws is decided by the complete trials before it alone, so
a study that was interrupted and resumed goes through the same trials as one that was not.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resprune.errors import StudyError
from resprune.setting import Setting
from tuner.results.schema import TrialResult
from tuner.search.objectives import Objective
from tuner.search.space import Space
from tuner.search.storage import journal

if TYPE_CHECKING:
    import optuna

Evaluate = Callable[[Setting], tuple[float, int, float]]
"""Gives a setting's mean score, its mean count of tokens left, and its cost."""
_MOST_REPEATS = 40  # draws of a setting that was tried already, before it is tried again


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
        params = [space.params(setting) for setting in first]
        self._first = [given for given in params if given is not None]
        self._study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=list(objective.directions),
            load_if_exists=True,
        )
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == optuna.trial.TrialState.RUNNING:  # cut short, and drawn again
                self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if any("cost" not in trial.user_attrs for trial in self._complete()):
            raise StudyError(
                f"study {name!r}: its journal was written by an older version; move the run folder "
                "away, or give --runs another"
            )

    def step(self, evaluate: Evaluate, floor: float | None) -> None:
        """Run one trial.

        Args:
            evaluate: Scores a setting on the tune split.
            floor: Mean score that trials must reach, None where there is none.
        """
        import optuna

        trial = self._ask()
        begin = time.perf_counter()
        score, tokens, cost = evaluate(self.space.setting(trial.params))
        trial.set_user_attr("score", score)
        trial.set_user_attr("tokens", tokens)
        trial.set_user_attr("cost", cost)
        trial.set_user_attr("seconds", round(time.perf_counter() - begin, 4))
        if floor is not None:
            trial.set_constraint("quality-floor", floor - score)
        values = self._objective.values(score, cost)
        self._study.tell(trial, values, state=optuna.trial.TrialState.COMPLETE)

    @property
    def count(self) -> int:
        """How many trials are complete."""
        return len(self._complete())

    def trials(self) -> list[TrialResult]:
        """Return the complete trials in order."""
        return [
            TrialResult(
                number=number,
                setting=self.space.setting(trial.params),
                tokens=int(trial.user_attrs["tokens"]),
                cost=float(trial.user_attrs["cost"]),
                score=float(trial.user_attrs["score"]),
                seconds=float(trial.user_attrs["seconds"]),
            )
            for number, trial in enumerate(self._complete())
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

    def _ask(self) -> optuna.trial.Trial:
        """Ask for a trial at the budget whose turn it is, of a setting that was not tried yet.

        The sampler knows nothing of what repeats: a repeated trial is marked as failed, which
        samplers ignore, and drawn again. Where nothing else is left, a setting is tried again, at
        no cost, so that every method gets the same number of trials.
        """
        import optuna

        from tuner.search.sampler import DealtSampler

        done = self._complete()
        place = len(done)
        tried = {self.space.setting(trial.params) for trial in done}
        served = Counter(self.space.label(setting) for setting in tried)
        turn = Counter(self.space.label(self.space.setting(trial.params)) for trial in done)
        budget = min(self.space.budgets, key=lambda label: turn[label])
        spent = served[budget] >= self.space.size
        words = [self._seed, *self.space.method.encode(), place]
        for attempt in range(_MOST_REPEATS):
            self._study.sampler = DealtSampler([*words, attempt], budget)
            if place < len(self._first) and attempt == 0 and not self._waiting():
                self._study.enqueue_trial(self._first[place])
            trial = self._study.ask(fixed_distributions=self._distributions)
            repeated = self.space.setting(trial.params) in tried
            if spent or not repeated or attempt == _MOST_REPEATS - 1:
                return trial
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise AssertionError("the last attempt is taken")

    def _waiting(self) -> bool:
        import optuna

        states = (optuna.trial.TrialState.WAITING,)
        return bool(self._study.get_trials(deepcopy=False, states=states))


class Search:
    """The search of a study over its methods.

    Args:
        name: Name of the study.
        spaces: What is tried of each method.
        objective: What is looked for.
        seed: The study's seed.
        run_dir: The run folder.
        first: Settings to try first, by method.

    Attributes:
        failed: Methods whose search ended with an error.

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
        self.failed: dict[str, Exception] = {}
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
        evaluate: Evaluate,
        floor: float | None,
        report: Callable[[TrialResult, int], None],
        forgive: tuple[type[Exception], ...] = (),
    ) -> None:
        """Run the trials that are missing, dealt over the methods in turn.

        Args:
            total: Trials of each method, those before an interruption included.
            evaluate: Scores a setting on the tune split.
            floor: Mean score that trials must reach, None where there is none.
            report: Told each trial, and how many are complete.
            forgive: Errors that end the search of the one method; see ``failed``.
        """
        for number in range(total):
            for name, search in self._searches.items():
                if search.count <= number and name not in self.failed:
                    try:
                        search.step(evaluate, floor)
                    except forgive as error:
                        self.failed[name] = error
                        continue
                    done = sum(each.count for each in self._searches.values())
                    report(search.trials()[-1], done)

    def trials(self) -> list[TrialResult]:
        """Return the complete trials, method by method."""
        return [trial for search in self._searches.values() for trial in search.trials()]

    def importances(self) -> dict[str, dict[str, float]]:
        """Return each method's ``MethodSearch.importances``."""
        return {name: search.importances() for name, search in self._searches.items()}
