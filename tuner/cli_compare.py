"""``resprune-tune compare``: the methods of a study side by side."""

from __future__ import annotations

from pathlib import Path

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
    print_json,
    quieten_libraries,
)


def compare(
    study: StudyName,
    runs: Runs = None,
    trials: Trials = None,
    samples: Samples = None,
    report_samples: ReportSamples = None,
    report_offset: ReportOffset = None,
    seed: Seed = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a study's methods, tuned alike and as published, at equal tokens and cost."""
    config = load_given(
        study,
        {"trials": trials, "seed": seed},
        {
            "tune": {"samples": samples},
            "report": {"samples": report_samples, "offset": report_offset},
        },
    )
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
