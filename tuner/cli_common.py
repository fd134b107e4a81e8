"""What the commands of ``resprune-tune`` share; nothing heavy is imported here."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

StudyName = Annotated[str, typer.Argument(help="A shipped study's name, or a TOML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


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
