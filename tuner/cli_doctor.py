"""``resprune-tune doctor``: what is installed, and whether pruning is really active."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli_common import AsJson, console, parse_budget, quieten_libraries

EXIT_PROBLEM = 1


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="An exported config directory; is it active?")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Embedded model, folder or hub id; the config's otherwise. Without a config it "
            "is pruned with its family's defaults."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            parser=parse_budget,
            metavar="NUMBER",
            help="An entry of the config, its default otherwise; without a config any, or 0.111.",
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="An image file; a made-up scene otherwise.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="What to ask about it; 'What color is the star?' otherwise.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of run folders.")] = Path("runs"),
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Measure the first token's speed-up.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Say what is installed and, of a config or model, whether pruning is really active."""
    quieten_libraries()
    from tuner.doctor.diagnose import diagnose
    from tuner.output.doctor import show_diagnosis

    found = diagnose(config, model, budget, image, question=question, runs=runs, speed=speed)
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        show_diagnosis(found, console())
    if found.problems:
        raise typer.Exit(EXIT_PROBLEM)
