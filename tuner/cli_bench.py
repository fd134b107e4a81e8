"""``resprune-tune bench``: how much faster pruning is, and how much memory it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli_common import AsJson, console, parse_budget, print_json, quieten_libraries


def bench(
    source: Annotated[
        str | None,
        typer.Argument(help="A study (shipped name or TOML file), or an exported config folder."),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="A real model's size with random weights: llava-1.5-7b, ...")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A method; give it again for more.")
    ] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option(
            parser=parse_budget,
            metavar="NUMBER",
            help="A count or a ratio; give it again for more.",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds, 6 or more.")] = 9,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Batch sizes, such as 1,8,32 (the default; with --shape on a CPU, 1).",
            metavar="LIST",
        ),
    ] = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens generated a call, 2 or more.")] = 8,
    prompts: Annotated[int, typer.Option(help="Prompts at most.", min=1)] = 8,
    model: Annotated[
        str | None, typer.Option(help="With a config: embedded model, folder or hub id.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the order of each round.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write efficiency.json and efficiency.md into this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure time, arithmetic and memory of pruning, paired with the unpruned model."""
    from resprune.errors import StudyError

    if (source is None) == (shape is None):
        raise StudyError("give a study or a config folder, or --shape; one of them")
    quieten_libraries()
    from resprune.config import CONFIG_FILE
    from tuner.efficiency.runs import BATCHES, Plan, bench_config, bench_shape, bench_study
    from tuner.output.console import RichProgress
    from tuner.output.efficiency import show_efficiency, write_efficiency

    def plan(default: tuple[int, ...]) -> Plan:
        batches = default if batch is None else _batches(batch)
        return Plan(repeats, new_tokens, batches, prompts, seed)

    names, budgets = method or [], budget or []
    is_config = shape is None and (Path(source or "") / CONFIG_FILE).is_file()
    if is_config and names:
        raise StudyError("--method: a config has its own policies; leave it out")
    if model is not None and not is_config:
        raise StudyError("--model: a study and a shape name their own; leave it out")
    with RichProgress(console(stderr=True)) as progress:
        progress.stage("efficiency")
        if shape is not None:
            import torch

            sizes = BATCHES if torch.cuda.is_available() else (1,)
            found = bench_shape(shape, plan(sizes), names, budgets, progress.step)
        elif is_config:
            folder = Path(source or "")
            found = bench_config(folder, plan(BATCHES), budgets, model, progress.step)
        else:
            from tuner.study import find_study, load_study

            study = load_study(find_study(source or ""))
            found = bench_study(study, plan(BATCHES), names, budgets, progress.step)
    written = write_efficiency(found, out) if out is not None else []
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    show_efficiency(found, console())
    for path in written:
        print(path)


def _batches(text: str) -> tuple[int, ...]:
    from resprune.errors import StudyError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise StudyError(f"--batch: {text!r} is no list of counts; give 1,8,32") from None
