"""``resprune-tune plan`` and ``certify``: what a claim needs, and whether it holds.

``certify`` exits with 0 where the claim is certified, 1 where it is refuted or undecided, and 2 on
bad input.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tuner.cli_common import AsJson, StudyName, console, parse_budget, print_json, quieten_libraries

EXIT_NOT_CERTIFIED = 1
Loss = Annotated[float, typer.Option(help="The mean score falls by less than this.")]
Confidence = Annotated[float, typer.Option(help="How seldom a false claim may be certified.")]


class _Scale(StrEnum):
    absolute = "absolute"
    relative = "relative"


class _Test(StrEnum):
    betting = "betting"
    exact = "exact"


def plan(
    study: StudyName,
    worse: Annotated[
        float | None,
        typer.Option(help="Share of questions whose answer turns wrong; else a pilot."),
    ] = None,
    better: Annotated[
        float | None, typer.Option(help="Share of questions whose answer turns right.")
    ] = None,
    pilot: Annotated[int, typer.Option(help="Tune samples that the pilot scores.", min=20)] = 100,
    as_json: AsJson = False,
) -> None:
    """Say how many images and questions a study's claim needs, and what the study costs here."""
    from tuner.study import find_study, load_study

    config = load_study(find_study(study))
    quieten_libraries()
    from tuner.planning import plan_study

    if as_json:
        print_json(plan_study(config, worse, better, pilot).model_dump(mode="json"))
        return
    from tuner.output.console import RichProgress
    from tuner.output.plan import show_plan

    with RichProgress(console(stderr=True)) as progress:
        found = plan_study(config, worse, better, pilot, progress)
    show_plan(found, console())


def certify(
    config_dir: Annotated[Path, typer.Argument(help="An exported config directory.")],
    task: Annotated[
        str, typer.Option(help="A study's name, or a TOML file: its task.certify is tested on.")
    ],
    loss: Loss,
    confidence: Confidence = 0.95,
    scale: Annotated[
        _Scale, typer.Option(help="The loss itself, or a share of the score with all tokens.")
    ] = _Scale.absolute,
    budget: Annotated[
        float | None,
        typer.Option(
            parser=parse_budget,
            metavar="NUMBER",
            help="An entry of the config; its default otherwise.",
        ),
    ] = None,
    test: Annotated[
        _Test, typer.Option(help="betting stops when it knows; exact reports once, at --images.")
    ] = _Test.betting,
    images: Annotated[int | None, typer.Option(help="Images to look at, at most.", min=1)] = None,
    clip: Annotated[
        float | None, typer.Option(help="Least log-likelihood, where that is the metric.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Embedded model, folder or hub id; the config's otherwise.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the order of images.", min=0)] = 0,
    folder: Annotated[
        Path, typer.Option(help="Where outcomes and encoded images are kept.")
    ] = Path("runs/certify"),
    as_json: AsJson = False,
) -> None:
    """Test the claim of a config that exists on new data."""
    quieten_libraries()
    from pydantic import ValidationError

    from resprune.certificate import Claim
    from resprune.errors import StudyError
    from resprune.validation import explain
    from tuner.certifying import certify_config
    from tuner.output.console import RichProgress
    from tuner.output.plan import show_certification
    from tuner.progress import Silent

    try:
        claim = Claim(loss=loss, confidence=confidence, scale=scale.value)
    except ValidationError as error:
        raise StudyError(f"--{explain(error, Claim)}") from None
    bar = RichProgress(console(stderr=True))
    with bar:
        found = certify_config(
            config_dir,
            task,
            claim,
            budget=budget,
            test=test.value,
            images=images,
            clip=clip,
            model=model,
            seed=seed,
            folder=folder,
            progress=Silent() if as_json else bar,
        )
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        show_certification(found, console())
    if found.verdict != "certified":
        raise typer.Exit(EXIT_NOT_CERTIFIED)
