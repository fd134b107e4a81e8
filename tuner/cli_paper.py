"""``resprune-tune paper``: the tables of the ResPrune paper, one command each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli_common import AsJson, console, print_json, quieten_libraries


def paper(
    table: Annotated[
        str, typer.Argument(help="table-1, table-2, table-3, table-4 or pooling.", metavar="TABLE")
    ],
    on: Annotated[
        str, typer.Option(help="weights (released ones, from the hub) or nano.")
    ] = "weights",
    samples: Annotated[int | None, typer.Option(help="Questions a benchmark at most.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of run folders.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Fill a table of the paper, on released weights or on the embedded models."""
    from resprune.errors import StudyError, near_names

    if on not in ("weights", "nano"):
        raise StudyError(f"--on: unknown {on!r}. {near_names(on, ('weights', 'nano'))}")
    quieten_libraries()
    from tuner.output import RichProgress
    from tuner.output.paper import show_paper, write_paper
    from tuner.paper.run import fill_table

    if as_json:
        found = fill_table(table, runs, nano=on == "nano", samples=samples)
        write_paper(found, runs)
        print_json(found.model_dump(mode="json"))
        return
    with RichProgress(console(stderr=True)) as progress:
        found = fill_table(table, runs, nano=on == "nano", samples=samples, progress=progress)
    show_paper(found, console())
    for path in write_paper(found, runs):
        print(path)
