"""``resprune-tune``: run, validate, ls, export, report, predict, version.

Exit codes: 0 done, 2 wrong usage or bad input, 130 interrupted. Everything heavy is imported
inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TextIO, TypeVar

import typer

from resprune.errors import ResPruneError

if TYPE_CHECKING:
    from rich.console import Console

    from tuner.study import StudyConfig

app = typer.Typer(
    name="resprune-tune",
    help="Find a vision-language model's pruning config, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_P = ParamSpec("_P")
_R = TypeVar("_R")

StudyName = Annotated[str, typer.Argument(help="A shipped study's name, or a TOML file.")]
RunDir = Annotated[Path, typer.Argument(help="Run folder of a finished study.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


def _guarded(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn errors a user can mend into one line, and an interruption into its exit code."""

    @functools.wraps(command)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        warnings.showwarning = _show_warning
        try:
            return command(*args, **kwargs)
        except ResPruneError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except KeyboardInterrupt:
            print("interrupted; run the same command again to go on", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return guarded


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, UserWarning):
        print(f"warning: {message}", file=sys.stderr)


@app.command()
@_guarded
def run(
    study: StudyName,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of run folders; the study's own by default.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trials of each method.")] = None,
    samples: Annotated[int | None, typer.Option(help="Samples of the tune split.")] = None,
    fit_samples: Annotated[int | None, typer.Option(help="Samples of the fit split.")] = None,
    report_samples: Annotated[int | None, typer.Option(help="Samples of the report split.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    no_adaptive: Annotated[
        bool, typer.Option("--no-adaptive", help="Do not fit the alpha predictor.")
    ] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Run a study, or resume it: trials, alpha fit, report, config."""
    from tuner.study import find_study, load_study

    overrides = _overrides(trials, samples, fit_samples, report_samples, seed, no_adaptive)
    config = load_study(find_study(study), overrides)
    folder = runs if runs is not None else Path(config.storage.runs)
    _run(config, folder, as_json=as_json, quiet=quiet or as_json)


def _run(study: StudyConfig, runs: Path, *, as_json: bool, quiet: bool) -> None:
    _quieten_libraries()
    from tuner.output import RichProgress, show_results
    from tuner.run import run_study, summary

    run_dir = runs / study.study.name
    if quiet:
        results = run_study(study, runs)
    else:
        with RichProgress(_console(stderr=True)) as progress:
            results = run_study(study, runs, progress)
        show_results(results, run_dir, _console())
    if as_json:
        _print_json(summary(results, run_dir))


def _overrides(
    trials: int | None,
    samples: int | None,
    fit_samples: int | None,
    report_samples: int | None,
    seed: int | None,
    no_adaptive: bool,
) -> dict[str, dict[str, Any]]:
    sizes = {"tune": samples, "fit": fit_samples, "report": report_samples}
    given = {"trials": trials, "seed": seed}
    return {
        "study": {name: value for name, value in given.items() if value is not None},
        "task": {name: {"samples": size} for name, size in sizes.items() if size is not None},
        "alpha": {"adaptive": False} if no_adaptive else {},
    }


@app.command()
@_guarded
def validate(
    study: StudyName,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Check the file alone, not against the model.")
    ] = False,
) -> None:
    """Check a study: every key, its splits, its budgets; no weights are loaded."""
    from tuner.study import find_study, load_study

    path = find_study(study)
    config = load_study(path)
    if no_model:
        print(f"{path}: the file is fine (not checked against the model and the samples)")
        return
    _quieten_libraries()
    from tuner.study.check import check_study

    for line in check_study(config):
        print(f"{path}: {line}")


@app.command("ls")
@_guarded
def list_names(
    what: Annotated[str, typer.Argument(help="studies, tasks, backbones or methods.")] = "studies",
    as_json: AsJson = False,
) -> None:
    """List what there is: studies, tasks, backbones or methods."""
    from resprune.errors import StudyError, near_names

    kinds = ("studies", "tasks", "backbones", "methods")
    if what not in kinds:
        raise StudyError(f"cannot list {what!r}. {near_names(what, kinds)}")
    if what == "backbones":
        _list_backbones(as_json)
        return
    names = _names(what)
    if as_json:
        _print_json(names)
    else:
        print("\n".join(names))


def _names(what: str) -> list[str]:
    if what == "studies":
        from tuner.study import study_names

        return study_names()
    if what == "tasks":
        from tuner import tasks

        return tasks.names()
    import resprune

    return resprune.methods.names()


def _list_backbones(as_json: bool) -> None:
    import resprune

    facts = [resprune.backbones.get(family).facts() for family in resprune.backbones.names()]
    if as_json:
        _print_json(facts)
        return
    from rich.table import Table

    table = Table("family")
    table.add_column("transformers class", no_wrap=True)
    for column in ("seed strategies", "positions", "refused"):
        table.add_column(column)
    for entry in facts:
        table.add_row(
            entry["family"],
            "\n".join(entry["transformers_classes"]),
            ", ".join(entry["seed_strategies"]),
            entry["positions"],
            "; ".join(entry["refused"]),
        )
    _console().print(table)


@app.command()
@_guarded
def export(
    run_dir: RunDir,
    out: Annotated[Path | None, typer.Option(help="Where; RUN_DIR/config by default.")] = None,
) -> None:
    """Write the config directory of a finished study."""
    from tuner.output import export_run

    print(export_run(run_dir, out))


@app.command()
@_guarded
def report(run_dir: RunDir) -> None:
    """Write the HTML report of a finished study."""
    from tuner.output import write_report

    print(write_report(run_dir))


@app.command()
@_guarded
def predict(
    config_dir: Annotated[Path, typer.Argument(help="An exported config directory.")],
    image: Annotated[Path, typer.Option(help="An image file.")],
    question: Annotated[str, typer.Option(help="What to ask.")],
    budget: Annotated[
        str | None, typer.Option(help="An entry of the config; its default otherwise.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Embedded model, folder or hub id; the config's otherwise.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Write the image with the kept tokens here.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Answer one question with and without pruning, and say what was kept."""
    _quieten_libraries()
    from tuner.predict import MAX_NEW_TOKENS
    from tuner.predict import predict as answer

    result = answer(
        config_dir,
        image,
        question,
        _budget(budget),
        model,
        draw=draw,
        max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
    )
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        from tuner.output import show_prediction

        show_prediction(result, _console())


def _budget(text: str | None) -> int | float | None:
    from resprune.errors import StudyError

    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise StudyError(
            f"--budget {text!r} is no number; give a count such as 11 or a ratio such as 0.11"
        ) from None


@app.command()
def version() -> None:
    """Print the version."""
    from resprune.version import __version__

    print(__version__)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = 120  # a log or a pipe has no width of its own
    return console


def _quieten_libraries() -> None:
    """Silence the chatter of transformers: its bars and its advice on what we do on purpose."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def main() -> None:
    """Run the command line."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
