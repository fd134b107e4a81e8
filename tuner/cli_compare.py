"""``resprune-tune compare``: the methods of a study side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli_common import AsJson, StudyName, console, print_json, quieten_libraries


def compare(
    study: StudyName,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of run folders; the study's own by default.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trials of each method.")] = None,
    samples: Annotated[int | None, typer.Option(help="Samples of the tune split.")] = None,
    report_samples: Annotated[int | None, typer.Option(help="Samples of the report split.")] = None,
    report_offset: Annotated[
        int | None, typer.Option(help="Samples of the report split to skip.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Compare a study's methods, tuned alike and as published, at equal tokens and cost."""
    from tuner.study import find_study, load_study

    given: dict[str, dict[str, Any]] = {
        "study": {"trials": trials, "seed": seed},
        "tune": {"samples": samples},
        "report": {"samples": report_samples, "offset": report_offset},
    }
    kept = {
        name: {key: value for key, value in keys.items() if value is not None}
        for name, keys in given.items()
    }
    study_keys = kept.pop("study")
    overrides = {"study": study_keys, "task": {name: keys for name, keys in kept.items() if keys}}
    config = load_study(find_study(study), overrides)
    quieten_libraries()
    from tuner.compare.run import compare_study
    from tuner.output import RichProgress
    from tuner.output.compared import show_compared

    folder = runs if runs is not None else Path(config.storage.runs)
    if quiet or as_json:
        found = compare_study(config, folder)
    else:
        with RichProgress(console(stderr=True)) as progress:
            found = compare_study(config, folder, progress)
        show_compared(found, folder / config.study.name, console())
    if as_json:
        print_json(found.model_dump(mode="json"))
