"""``resprune-tune compare``: the methods of a study side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli_common import (
    AsJson,
    Quiet,
    ReportOffset,
    ReportSamples,
    Runs,
    Samples,
    Seed,
    Trials,
    console,
    load_given,
    print_json,
    quieten_libraries,
)

ACROSS_FOLDER = "across"


def compare(
    studies: Annotated[
        list[str],
        typer.Argument(help="A shipped study's name or a TOML file; several, one a task."),
    ],
    runs: Runs = None,
    trials: Trials = None,
    samples: Samples = None,
    report_samples: ReportSamples = None,
    report_offset: ReportOffset = None,
    seed: Seed = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods, tuned alike and as published, at equal tokens and cost.

    Of several studies, one a task, the mean relative score over the tasks is said as well.
    """
    configs = [
        load_given(
            study,
            {"trials": trials, "seed": seed},
            {
                "tune": {"samples": samples},
                "report": {"samples": report_samples, "offset": report_offset},
            },
        )
        for study in studies
    ]
    quieten_libraries()
    from tuner.compare.run import compare_study
    from tuner.output import RichProgress
    from tuner.output.across import show_across, write_across
    from tuner.output.compared import show_compared
    from tuner.results.across import across

    found = []
    for config in configs:
        folder = runs if runs is not None else Path(config.storage.runs)
        if quiet or as_json:
            found.append(compare_study(config, folder))
            continue
        with RichProgress(console(stderr=True)) as progress:
            found.append(compare_study(config, folder, progress))
        show_compared(found[-1], folder / config.study.name, console())
    together = across(found) if len(found) > 1 else None
    if together is not None:
        at = folder / ACROSS_FOLDER
        write_across(together, at)
        if not (quiet or as_json):
            show_across(together, at, console())
    if as_json:
        print_json((together or found[0]).model_dump(mode="json"))
