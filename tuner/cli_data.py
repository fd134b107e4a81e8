"""``resprune-tune data check``: exits with 1 where something is wrong with the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli_common import AsJson, console, print_json, quieten_libraries

EXIT_PROBLEMS = 1
app = typer.Typer(help="Look at data before a study.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Look at data before a study."""


@app.command()
def check(
    path: Annotated[
        Path, typer.Argument(help="A study file, a data file, or a folder of one a split.")
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of images of a data file; its own by default.")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="Scorer of a data file's answers; none are needed without.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model of a data file: tokens of an image, cost of a study.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is in a table, what is wrong with it, what it can prove and what a study costs."""
    quieten_libraries()
    from tuner.data_check import check_file, check_study_data
    from tuner.from_logs import Logs, claim_of, study_from_logs
    from tuner.output.console import RichProgress
    from tuner.output.data_check import show_data_check
    from tuner.study import find_study, load_study

    with RichProgress(console(stderr=True)) as bar:
        told = None if as_json else bar.step
        if path.suffix == ".toml" or not path.exists():
            found = check_study_data(load_study(find_study(str(path))), told)
        else:
            found = check_file(path, images, scorer, told)
            if model is not None and not found.problems:
                logs = Logs(model, images, path, claim_of(0.02, 0.95))
                found = check_study_data(study_from_logs(logs, {}), told)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        show_data_check(found, console())
    if found.problems:
        raise typer.Exit(EXIT_PROBLEMS)
