"""``resprune-tune run MODEL --images FOLDER --questions FILE``: made, written, printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.cli_common import console, merged, quieten_libraries

if TYPE_CHECKING:
    from tuner.study import StudyConfig

_LOSS = 0.02
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class LogOptions:
    """What the command line says of a study without a file; None leaves a default."""

    model: str
    images: Path | None
    questions: Path
    loss: float | None
    answer_format: str | None
    name: str | None


def study_of_logs(
    options: LogOptions,
    study: Mapping[str, int | None],
    splits: Mapping[str, Mapping[str, int | None]],
    tables: Mapping[str, Mapping[str, Any]],
    runs: Path | None,
    *,
    quiet: bool,
) -> StudyConfig:
    """Make the study, write it, and print it with what its images can prove."""
    quieten_libraries()
    from tuner.from_logs import Logs, claim_of, keep, study_from_logs
    from tuner.study import dump_study

    logs = Logs(
        model=options.model,
        images=options.images,
        questions=options.questions,
        claim=claim_of(_LOSS if options.loss is None else options.loss, _CONFIDENCE),
        seed=study.get("seed") or 0,
        name=options.name,
        answer_format=options.answer_format or "",
    )
    if not quiet:
        console(stderr=True).print(f"Reading {options.questions} and its images", markup=False)
    config = study_from_logs(logs, merged(study, splits, tables))
    path = keep(config, runs if runs is not None else Path(config.storage.runs))
    if not quiet:
        out = console()
        out.print(dump_study(config), markup=False, highlight=False)
        out.print(f"Written to {path}; change it and run it by its name.", markup=False)
        out.print(f"{config.study.note}\n", markup=False, highlight=False)
    return config
