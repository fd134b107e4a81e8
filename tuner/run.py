"""Running a study from first trial to report: ``resprune-tune run STUDY``.

Baselines, trials and curves use the tune split alone; the predictor of adaptive policies the fit
split. What was chosen is then tested on the certify split and scored on the report split, each
opened once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resprune import methods
from resprune.budget import Budget
from resprune.errors import StudyError
from resprune.files import write_json, write_text
from resprune.setting import PREDICTOR_FILE, Adaptive, Setting, fixed, unpruned
from tuner.openings import Openings
from tuner.progress import Progress
from tuner.results.rows import BASELINES
from tuner.results.schema import Chosen, Results
from tuner.search.choose import Candidate, choose_setting
from tuner.search.storage import JOURNAL_FILE, only_one
from tuner.search.trials import Search
from tuner.stages.adaptive import Fitted, fit_adaptive, fit_curves
from tuner.stages.baselines import Named, Scored, fixed_policies, score
from tuner.stages.certify import certify_policies, choices_digest, recommend
from tuner.stages.curves import curves
from tuner.stages.efficiency import measure_chosen
from tuner.stages.examples import kept_examples
from tuner.stages.facts import facts, inside_notes
from tuner.stages.opened import OpenedStudy
from tuner.stages.report import report_split, rows_of, verdicts
from tuner.study import STUDY_FILE, StudyConfig, dump_study, load_study


def run_study(study: StudyConfig, runs: Path, progress: Progress | None = None) -> Results:
    """Run a study, or resume it, and write ``results.json``, the config and the report.

    Args:
        study: The study.
        runs: Folder of run folders.
        progress: Told how it gets on.

    Returns:
        What was found, as in ``results.json``.

    Raises:
        ResPruneError: Bad input, a damaged file that cannot be mended, or an unwritable folder.
    """
    from tuner.output.export import export_run
    from tuner.output.report import write_report

    run_dir = runs / study.study.name
    with only_one(run_dir):
        check_same(study, run_dir)
        with OpenedStudy(study, run_dir, progress) as opened:
            keep_study(study, run_dir)  # not before what it names is known to be there
            results, fitted = find(opened)
        if fitted is not None:
            write_json(run_dir / PREDICTOR_FILE, fitted.fit.predictor.to_dict())
        results.save(run_dir)
        export_run(run_dir)
        write_report(run_dir)
    return results


def find(opened: OpenedStudy) -> tuple[Results, Fitted | None]:
    """Go through the stages of an opened study.

    Returns:
        What was found, and the predictor of its adaptive policies.
    """
    study, tune = opened.study, opened.split("tune")
    budgets = opened.budgets()
    with opened.stage("trials"):
        whole = tune.score(unpruned())
        search = run_trials(opened, float(whole.mean()))
    with opened.stage("curves"):
        tried = list(dict.fromkeys(trial.setting for trial in search.trials()))
        candidates = list(map(Candidate, tried, tune.scores(tried)))
        first = choose(candidates, budgets)
        points, drawn = curves(opened, [candidate.setting for candidate in first.values()])
        candidates += points
        chosen = choose(candidates, budgets)
    settings = {budget: candidate.setting for budget, candidate in chosen.items()}
    fitted = None
    if study.alpha.adaptive:
        with opened.stage("adaptive"):
            fitted = fit_adaptive(opened, settings)
        if fitted is not None:
            drawn += fit_curves(opened, fitted)
            # every arm was scored on the fit split, which chooses better than the tune split alone
            settings |= {b: fixed(policy) for b, policy in fitted.policies.items()}
    with opened.stage("baselines"):
        others = rivals(candidates, settings)
        named = {b: fixed_policies(opened, s, others[b]) for b, s in settings.items()}
        measured = {b: score(tune, each, opened.seed) for b, each in named.items()}
        best_fixed = {b: best_on_tune(scored) for b, scored in measured.items()}
        tuned = {
            b: next(s for kind, _, s in each if kind == "tuned") for b, each in measured.items()
        }
    policies = {budget: deployed(setting, fitted) for budget, setting in settings.items()}
    with opened.stage("certify"):
        certificate = certify_policies(opened, policies, fitted)
    recommended, reason = recommend(opened, policies, fitted, float(whole.mean()), certificate)
    with opened.stage("report"):
        openings = open_report(opened, policies, others, fitted)
        reported = report_split(opened, named, best_fixed, fitted)
        shown = [b for b in dict.fromkeys((recommended, budgets[-1])) if b in reported.panels]
        panels = [panel for budget in shown for panel in reported.panels[budget]]
        examples = kept_examples(opened.split("report"), panels, study.report.examples)
    with opened.stage("efficiency"):
        efficiency = measure_chosen(opened, policies, fitted)
    intervals = opened.intervals("tune")
    notes = [reason, *inside_notes(opened, settings, others), *verdicts(reported, budgets, fitted)]
    simple = [each for scored in measured.values() for each in scored if each[0] in BASELINES]
    results = Results(
        **facts(opened, search, fitted, notes),
        trials=search.trials(),
        baselines=rows_of(opened, [("unpruned", unpruned(), whole), *simple], split="tune"),
        importances={
            method: sorted(shares, key=shares.__getitem__, reverse=True)
            for method, shares in search.importances().items()
        },
        curves=drawn,
        chosen=[
            Chosen(
                policy=policies[budget],
                setting=setting,
                tokens=opened.tokens(setting),
                cost=opened.cost(setting),
                notes=opened.notes(setting),
                tune_score=intervals.of(tuned[budget]),
            )
            for budget, setting in settings.items()
        ],
        recommended=recommended,
        certificate=certificate,
        report_openings=openings,
        report=reported.rows,
        adaptive=list(reported.adaptive.values()),
        examples=examples,
        efficiency=efficiency,
    )
    return results, fitted


def choose(candidates: Sequence[Candidate], budgets: Sequence[Budget]) -> dict[Budget, Candidate]:
    """Choose the setting of each budget among methods that can be deployed."""
    own = [c for c in candidates if methods.get(c.setting.method).stage in ("tokens", "layers")]
    return {
        budget: choose_setting([c for c in own if c.setting.budget == budget]) for budget in budgets
    }


def rivals(
    candidates: Sequence[Candidate], chosen: Mapping[Budget, Setting]
) -> dict[Budget, list[Setting]]:
    """Choose, at each budget, the setting of every other method that was searched."""
    found: dict[Budget, list[Setting]] = {}
    for budget, winner in chosen.items():
        by_method: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            if candidate.setting.budget == budget and candidate.setting.method != winner.method:
                by_method[candidate.setting.method].append(candidate)
        found[budget] = [choose_setting(own).setting for own in by_method.values()]
    return found


def best_on_tune(scored: Sequence[Scored]) -> Named:
    """Return the fixed policy of one budget with the best mean; ties to the last, the tuned one."""
    best = max(reversed(scored), key=lambda each: float(each[2].mean()))
    return best[0], fixed(best[1])


def run_trials(opened: OpenedStudy, unpruned: float) -> Search:
    """Run the trials that are missing."""
    study, tune = opened.study, opened.split("tune")
    budgets = study.budgets()
    own = {  # of methods inside the LLM as published, of ResPrune as the paper has it
        name: [Setting.of(name, budget, positions=space.positions[0]) for budget in study.budgets()]
        for name, space in opened.spaces.items()
        if methods.get(name).stage == "layers"
    }
    search = Search(
        study.study.name,
        list(opened.spaces.values()),
        study.study.objective,
        opened.seed,
        opened.run_dir,
        first={"resprune": [opened.paper(budget) for budget in budgets], **own},
    )
    total = study.study.trials

    def evaluate(setting: Setting) -> tuple[float, int, float]:
        score = float(tune.score(setting).mean())
        return score, opened.tokens(setting), opened.cost(setting)

    floor = study.study.objective.floor(unpruned, opened.bench.metric)
    search.run(
        total,
        evaluate,
        floor,
        lambda trial, done: opened.progress.trial(trial, done, total * len(opened.spaces)),
    )
    return search


def open_report(
    opened: OpenedStudy,
    policies: Mapping[Budget, Setting | Adaptive],
    others: Mapping[Budget, Sequence[Setting]],
    fitted: Fitted | None,
) -> int:
    """Record that the report split is opened; return which opening of the study's it is."""
    chosen = [*policies.values(), *(rival for each in others.values() for rival in each)]
    choices = choices_digest(opened, chosen, fitted)
    return Openings(opened.run_dir).open("report", opened.study.task.report, choices)


def deployed(setting: Setting, fitted: Fitted | None) -> Setting | Adaptive:
    """Return the policy of one budget that is exported."""
    if fitted is not None and setting.budget in fitted.policies and fitted.gains(setting.budget):
        return fitted.policies[setting.budget]
    return setting


def check_same(study: StudyConfig, run_dir: Path) -> None:
    """Refuse to resume another study."""
    path = run_dir / STUDY_FILE
    if path.is_file() and (run_dir / JOURNAL_FILE).is_file():
        changed = study.changed_since(load_study(path))
        if changed:
            raise StudyError(
                f"{run_dir}: holds a study with other settings ({', '.join(changed)} differ); "
                "give this one another study.name, use --runs, or move the folder away"
            )


def keep_study(study: StudyConfig, run_dir: Path) -> None:
    """Write the study as it runs into the run folder."""
    path = run_dir / STUDY_FILE
    try:
        write_text(path, dump_study(study))
    except OSError as error:
        raise StudyError(f"{path}: cannot be written ({error.strerror})") from error


def summary(results: Results, run_dir: Path) -> dict[str, Any]:
    """Return what ``run --json`` prints: the answer and where the files are."""
    rows: Sequence[Any] = [
        row.model_dump(mode="json", exclude={"by_group"}) for row in results.report
    ]
    return {
        "study": results.study["study"]["name"],
        "run_dir": str(run_dir),
        "recommended": results.recommended.model_dump(),
        "chosen": [chosen.model_dump(mode="json") for chosen in results.chosen],
        "report": rows,
        "adaptive": [
            row.model_dump(mode="json", include={"tokens", "strength", "versus_best_fixed"})
            for row in results.adaptive
        ],
        "cost": results.cost.model_dump(mode="json"),
        "notes": results.notes,
    }
