"""``resprune-tune surrogate``: does a small residual energy keep answers?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli_common import (
    AsJson,
    Runs,
    Samples,
    Seed,
    StudyName,
    console,
    load_given,
    print_json,
    quieten_libraries,
)


def surrogate(
    study: StudyName,
    plans: Annotated[int, typer.Option(help="Plans of each sample and budget, 4 or more.")] = 24,
    runs: Runs = None,
    samples: Samples = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Correlate what plans leave outside their subspace with what their answers are worth."""
    config = load_given(study, {"seed": seed}, {"tune": {"samples": samples}})
    quieten_libraries()
    from tuner.output import RichProgress
    from tuner.output.surrogate import show_surrogate
    from tuner.surrogate.run import run_surrogate

    folder = runs if runs is not None else Path(config.storage.runs)
    if as_json:
        print_json(run_surrogate(config, folder, plans).model_dump(mode="json"))
        return
    with RichProgress(console(stderr=True)) as progress:
        found = run_surrogate(config, folder, plans, progress)
    show_surrogate(found, folder / config.study.name, console())
