"""``resprune-tune surrogate``: does a small residual energy keep answers?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli_common import AsJson, StudyName, console, print_json, quieten_libraries


def surrogate(
    study: StudyName,
    plans: Annotated[int, typer.Option(help="Plans of each sample and budget, 4 or more.")] = 24,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of run folders; the study's own by default.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Samples of the tune split.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    as_json: AsJson = False,
) -> None:
    """Correlate what plans leave outside their subspace with what their answers are worth."""
    from tuner.study import find_study, load_study

    overrides: dict[str, dict[str, Any]] = {
        "study": {} if seed is None else {"seed": seed},
        "task": {} if samples is None else {"tune": {"samples": samples}},
    }
    config = load_study(find_study(study), overrides)
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
