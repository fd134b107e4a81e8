"""``resprune-tune``: plan, run, certify, bench, validate, ls, export, report, predict, doctor.

Exit codes: 0 done, 2 wrong usage or bad input, 130 interrupted. Everything heavy is imported
inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from resprune.errors import ResPruneError
from tuner import cli_bench, cli_claims, cli_compare, cli_data, cli_doctor, cli_paper, cli_surrogate
from tuner.cli_common import (
    AsJson,
    Quiet,
    ReportOffset,
    ReportSamples,
    Runs,
    Samples,
    Seed,
    StudyName,
    Trials,
    console,
    load_given,
    parse_budget,
    print_json,
    quieten_libraries,
)
from tuner.cli_logs import LogOptions, study_of_logs

if TYPE_CHECKING:
    from rich.table import Table

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class _Commands(TyperGroup):
    """Turns errors a user can mend into one line, and an interruption into its exit code."""

    def invoke(self, ctx: Any) -> Any:
        warnings.showwarning = _show_warning
        try:
            return super().invoke(ctx)
        except ResPruneError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except KeyboardInterrupt:
            print("interrupted; run the same command again to go on", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    name="resprune-tune",
    help="Find how far a model's image tokens can be pruned, and certify what that costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def overrides(no_adaptive: bool, positions: str | None) -> dict[str, dict[str, Any]]:
    """Return what flags of ``run`` say of tables that are no splits."""
    return {
        "alpha": {"adaptive": False} if no_adaptive else {},
        "search": {} if positions is None else {"positions": positions},
    }


RunDir = Annotated[Path, typer.Argument(help="Run folder of a finished study.")]


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        print(f"warning: {message}", file=sys.stderr)


@app.command()
def run(
    study: Annotated[
        str,
        typer.Argument(
            help="A shipped study's name, or a TOML file; with --questions, a model: embedded, a "
            "folder, or a hub id."
        ),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of images, for a study without a file.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="JSONL, CSV or parquet with image and question, or .txt with one question a line, "
            "asked of every image; no labels are needed."
        ),
    ] = None,
    loss: Annotated[
        float | None, typer.Option(help="With --questions: the loss to certify; 0.02 by default.")
    ] = None,
    answer_format: Annotated[
        str | None, typer.Option(help="With --questions: text appended to each.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="With --questions: the study's name.")] = None,
    runs: Runs = None,
    trials: Trials = None,
    samples: Samples = None,
    fit_samples: Annotated[int | None, typer.Option(help="Samples of the fit split.")] = None,
    certify_samples: Annotated[
        int | None, typer.Option(help="Samples of the certify split.")
    ] = None,
    certify_offset: Annotated[
        int | None, typer.Option(help="Samples of the certify split to skip.")
    ] = None,
    report_samples: ReportSamples = None,
    report_offset: ReportOffset = None,
    seed: Seed = None,
    positions: Annotated[
        str | None,
        typer.Option(help="Positions of kept tokens: keep, or compact, as vLLM counts 1-D ones."),
    ] = None,
    no_adaptive: Annotated[
        bool, typer.Option("--no-adaptive", help="Do not fit the alpha predictor.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a study, or resume it: trials, alpha fit, report, config."""
    given = {
        "tune": {"samples": samples},
        "fit": {"samples": fit_samples},
        "certify": {"samples": certify_samples, "offset": certify_offset},
        "report": {"samples": report_samples, "offset": report_offset},
    }
    numbers, tables = {"trials": trials, "seed": seed}, overrides(no_adaptive, positions)
    if questions is not None:
        logs = LogOptions(study, images, questions, loss, answer_format, name)
        config = study_of_logs(logs, numbers, given, tables, runs, quiet=quiet or as_json)
    else:
        for option, value in (
            ("images", images), ("loss", loss), ("answer-format", answer_format), ("name", name),
        ):  # fmt: skip
            if value is not None:
                raise typer.BadParameter(f"--{option} goes with --questions")
        config = load_given(study, numbers, given, **tables)
    quieten_libraries()
    from tuner.output import RichProgress, show_results
    from tuner.run import run_study, summary

    folder = runs if runs is not None else Path(config.storage.runs)
    run_dir = folder / config.study.name
    if quiet or as_json:
        results = run_study(config, folder)
    else:
        with RichProgress(console(stderr=True)) as progress:
            results = run_study(config, folder, progress)
        show_results(results, run_dir, console())
    if as_json:
        print_json(summary(results, run_dir))


@app.command()
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
    quieten_libraries()
    from tuner.study.check import check_study

    for line in check_study(config):
        print(f"{path}: {line}")


@app.command("ls")
def list_names(
    what: Annotated[str, typer.Argument(help="studies, tasks, backbones or methods.")] = "studies",
    as_json: AsJson = False,
) -> None:
    """List what there is: studies, tasks, backbones or methods."""
    import resprune
    from resprune.errors import StudyError, near_names
    from tuner import tasks
    from tuner.study import study_names

    kinds: dict[str, Callable[[], list[str]]] = {
        "studies": study_names,
        "tasks": tasks.names,
        "backbones": resprune.backbones.names,
        "methods": resprune.methods.names,
    }
    if what not in kinds:
        raise StudyError(f"cannot list {what!r}. {near_names(what, kinds)}")
    names = kinds[what]()
    facts = [resprune.backbones.get(name).facts() for name in names if what == "backbones"]
    if as_json:
        print_json(facts or names)
    elif facts:
        console().print(_table(facts))
    else:
        print("\n".join(names))


def _table(facts: list[dict[str, Any]]) -> Table:
    """Set facts about one thing a row; the words of a list stand below each other."""
    from rich.table import Table

    table = Table()
    for name in facts[0]:
        table.add_column(name.replace("_", " "), no_wrap=name != "refused")
    for fact in facts:
        table.add_row(*("\n".join(v) if isinstance(v, list) else str(v) for v in fact.values()))
    return table


@app.command()
def export(
    run_dir: RunDir,
    out: Annotated[Path | None, typer.Option(help="Where; RUN_DIR/config by default.")] = None,
) -> None:
    """Write the config directory of a finished study."""
    from tuner.output import export_run

    print(export_run(run_dir, out))


@app.command()
def report(run_dir: RunDir) -> None:
    """Write the HTML report of a finished study."""
    from tuner.output import write_report

    print(write_report(run_dir))


@app.command()
def predict(
    config_dir: Annotated[Path, typer.Argument(help="An exported config directory.")],
    image: Annotated[Path, typer.Option(help="An image file.")],
    question: Annotated[str, typer.Option(help="What to ask.")],
    budget: Annotated[
        float | None,
        typer.Option(
            parser=parse_budget,
            metavar="NUMBER",
            help="An entry of the config; its default otherwise.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Embedded model, folder or hub id; the config's otherwise.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Write the image with the kept tokens here.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 64,
    as_json: AsJson = False,
) -> None:
    """Answer one question with and without pruning, and say what was kept."""
    quieten_libraries()
    from tuner.predict import predict as answer

    result = answer(
        config_dir, image, question, budget, model, draw=draw, max_new_tokens=max_new_tokens
    )
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        from tuner.output import show_prediction

        show_prediction(result, console())


app.add_typer(cli_data.app, name="data")
app.command()(cli_claims.plan)
app.command()(cli_claims.certify)
app.command()(cli_bench.bench)
app.command()(cli_compare.compare)
app.command()(cli_surrogate.surrogate)
app.command()(cli_paper.paper)
app.command()(cli_doctor.doctor)


@app.command()
def version() -> None:
    """Print the version."""
    from resprune.version import __version__

    print(__version__)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
