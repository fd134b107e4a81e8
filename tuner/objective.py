"""The Optuna side of a study: search space, sampler, journal, and one trial after another.

Every trial's sampler is seeded from (study seed, trial number) and trials run one by one, so a
study that was interrupted and resumed goes through the same trials as one that was not.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from resprune.config import PAPER_DEFAULTS, UNTESTED_DEFAULT
from resprune.errors import StudyError
from tuner.evaluate import Setting
from tuner.results import TrialResult
from tuner.study import AlphaRange, StudyConfig

if TYPE_CHECKING:
    import optuna

JOURNAL_FILE = "study.journal"
_STARTUP_TRIALS = 12
_MOST_REPEATS = 40  # in a row, before the search space counts as exhausted
_OPTIONS = ("pooling", "normalization", "positions")
_DIRECTIONS: dict[str, list[Literal["minimize", "maximize"]]] = {
    "pareto": ["maximize", "minimize"],
    "fixed-budget": ["maximize"],
    "quality-floor": ["minimize"],
}
Params = dict[str, float | int | str]


@dataclass(frozen=True)
class Scored:
    """What a trial measured.

    Attributes:
        score: Mean score on the tune split.
        floor: Score that the objective ``quality-floor`` asks for, else None.
    """

    score: float
    floor: float | None = None


class Search:
    """A study's search, stored in the journal of its run folder.

    Args:
        study: The study.
        counts: Count of tokens by budget.
        family: Backbone family, whose paper default is tried first.
        run_dir: The run folder.

    Raises:
        StudyError: The journal is damaged or cannot be written.
    """

    def __init__(
        self, study: StudyConfig, counts: Mapping[int | float, int], family: str, run_dir: Path
    ) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        from tuner.journal import HeldLock, mend_journal

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config = study
        self._counts = list(counts.values())
        self._space = self._distributions()
        path = run_dir / JOURNAL_FILE
        mend_journal(path)
        try:
            lock: Any = HeldLock()
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock))
            self._study = optuna.create_study(
                study_name=study.study.name,
                storage=storage,
                directions=_DIRECTIONS[study.study.objective.kind],
                sampler=self._sampler(0),
                load_if_exists=True,
            )
            self._enqueue_paper_default(family)
        except OSError as error:
            raise StudyError(f"{path}: cannot be written ({error.strerror})") from error
        except (KeyError, ValueError, AssertionError) as error:
            raise StudyError(
                f"{path}: not a journal that can be resumed ({type(error).__name__}: {error}); "
                "move it away to start again (outcomes already computed are kept)"
            ) from error

    # -- running ------------------------------------------------------------------------

    def run(
        self,
        evaluate: Callable[[Setting, int], Scored],
        report: Callable[[TrialResult], None] | None = None,
    ) -> None:
        """Run the trials that are missing.

        Args:
            evaluate: Scores a setting at a budget on the tune split.
            report: Called after each trial.
        """
        import optuna

        kind = self._config.study.objective.kind
        while self.finished < self._config.study.trials:
            trial = self._new_trial()
            if trial is None:
                return
            setting, budget = self.setting(trial.params)
            begin = time.perf_counter()
            scored = evaluate(setting, budget)
            trial.set_user_attr("score", scored.score)
            trial.set_user_attr("budget", budget)
            trial.set_user_attr("seconds", round(time.perf_counter() - begin, 4))
            if scored.floor is not None:
                trial.set_constraint("quality-floor", scored.floor - scored.score)
            values = {
                "pareto": [scored.score, float(budget)],
                "fixed-budget": [scored.score],
                "quality-floor": [float(budget)],
            }[kind]
            self._study.tell(trial, values, state=optuna.trial.TrialState.COMPLETE)
            if report is not None:
                report(self.trials()[-1])

    @property
    def finished(self) -> int:
        """Trials that are complete."""
        return len(self.trials())

    def trials(self) -> list[TrialResult]:
        """Return the complete trials by number."""
        import optuna

        states = (optuna.trial.TrialState.COMPLETE,)
        return [
            TrialResult(
                number=trial.number,
                params=_rounded(trial.params),
                budget=int(trial.user_attrs["budget"]),
                score=float(trial.user_attrs["score"]),
                state="complete",
                seconds=float(trial.user_attrs["seconds"]),
            )
            for trial in self._study.get_trials(deepcopy=False, states=states)
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
                    evaluator=optuna.importance.FanovaImportanceEvaluator(
                        seed=self._config.study.seed
                    ),
                    target=lambda trial: float(trial.user_attrs["score"]),
                )
            except (ValueError, RuntimeError):
                return {}
        return {name: float(value) for name, value in found.items() if np.isfinite(value)}

    def setting(self, params: Mapping[str, float | int | str]) -> tuple[Setting, int]:
        """Return the setting and the budget of a trial's parameters."""
        defaults = {name: getattr(self._config.search, name)[0] for name in _OPTIONS}
        chosen = {name: str(params.get(name, default)) for name, default in defaults.items()}
        strategy = str(params.get("seed_strategy", self._config.search.seed_strategy[0]))
        alpha = float(_rounded(params)["alpha"])
        setting = Setting(alpha=alpha, seed_strategy=strategy, **chosen)
        return setting, int(params.get("budget", self._counts[0]))

    # -- the space ----------------------------------------------------------------------

    def _distributions(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        search = self._config.search
        space: dict[str, Any] = {}
        if isinstance(search.alpha, AlphaRange):
            space["alpha"] = FloatDistribution(
                search.alpha.low, search.alpha.high, step=search.alpha.step
            )
        else:
            space["alpha"] = CategoricalDistribution([float(alpha) for alpha in search.alpha])
        for name in ("seed_strategy", *_OPTIONS):
            values = getattr(search, name)
            if len(values) > 1:
                space[name] = CategoricalDistribution(list(values))
        if len(self._counts) > 1:
            space["budget"] = CategoricalDistribution(self._counts)
        return space

    def _enqueue_paper_default(self, family: str) -> None:
        alpha, strategy = paper_default(family)
        search = self._config.search
        if not search.covers(alpha, strategy):
            return
        for count in self._counts:
            params: Params = {"alpha": alpha, "seed_strategy": strategy, "budget": count}
            params |= {name: getattr(search, name)[0] for name in _OPTIONS}
            known = {name: value for name, value in params.items() if name in self._space}
            self._study.enqueue_trial(known, skip_if_exists=True)

    def _sampler(self, number: int) -> Any:
        import optuna

        seed = np.random.SeedSequence([self._config.study.seed, number]).generate_state(1)[0]
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

        tried = [trial.params for trial in self.trials()]
        for _ in range(_MOST_REPEATS):
            trial = self._next()
            for name, space in self._space.items():
                trial._suggest(name, space)
            if _rounded(trial.params) not in tried:
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


def _rounded(params: Mapping[str, Any]) -> Params:
    """Steps of a float add up to 1.9000000000000001."""
    return {**params, "alpha": round(float(params["alpha"]), 6)}


def paper_default(family: str) -> tuple[float, str]:
    """Return alpha and seed strategy that the paper names for a family (arXiv 2603.21105)."""
    return PAPER_DEFAULTS.get(family, UNTESTED_DEFAULT)
