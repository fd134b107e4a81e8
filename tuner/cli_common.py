"""What the commands of ``resprune-tune`` share; nothing heavy is imported here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tuner.study import StudyConfig

StudyName = Annotated[str, typer.Argument(help="A shipped study's name, or a TOML file.")]
Runs = Annotated[
    Path | None, typer.Option(help="Folder of run folders; the study's own by default.")
]
Trials = Annotated[int | None, typer.Option(help="Trials of each method.")]
Samples = Annotated[int | None, typer.Option(help="Samples of the tune split.")]
ReportSamples = Annotated[int | None, typer.Option(help="Samples of the report split.")]
ReportOffset = Annotated[int | None, typer.Option(help="Samples of the report split to skip.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


def load_given(
    name: str,
    study: Mapping[str, int | None],
    splits: Mapping[str, Mapping[str, int | None]],
    **tables: Mapping[str, Any],
) -> StudyConfig:
    """Load a study with what the command line puts in the place of its keys.

    Args:
        name: A shipped study's name, or a TOML file.
        study: Keys of ``[study]``; None leaves the file's.
        splits: Keys of the splits, alike.
        **tables: Keys of other tables.
    """
    from tuner.study import find_study, load_study

    return load_study(find_study(name), merged(study, splits, tables))


def merged(
    study: Mapping[str, int | None],
    splits: Mapping[str, Mapping[str, int | None]],
    tables: Mapping[str, Mapping[str, Any]],
) -> dict[str, Mapping[str, Any]]:
    """Return what the command line gives, by section; None is left out."""
    ranges = {split: _given(keys) for split, keys in splits.items()}
    task = {split: keys for split, keys in ranges.items() if keys}
    return {"study": _given(study), "task": task, **tables}


def _given(keys: Mapping[str, int | None]) -> dict[str, int]:
    return {name: value for name, value in keys.items() if value is not None}


def parse_budget(text: str) -> int | float:
    """Read a budget: a whole number is a count, another a ratio."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    raise typer.BadParameter(
        f"{text!r} is no number; give a count such as 11 or a ratio such as 0.11"
    )


def print_json(data: Any) -> None:
    """Print data as JSON."""
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def console(*, stderr: bool = False) -> Console:
    """Make a console; a log or a pipe, which has no width of its own, gets 120 columns."""
    from rich.console import Console

    found = Console(stderr=stderr)
    if not found.is_terminal:
        found.width = 120
    return found


def quieten_libraries() -> None:
    """Silence the chatter of transformers: its bars and its advice on what we do on purpose."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
