"""Train an embedded model: `python -m studies.nano.train --model nano-llava --out DIR`.

`--seed` gives another model, `--smoke` runs a few steps of every stage. Runs all stages in two
single-thread processes, and goes on where an interrupted run stopped. The model, its processor and
`training.json` end up in DIR/model; DIR/log.jsonl keeps the log.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from resprune.errors import ResPruneError, near_names
from resprune.files import write_json, written_beside
from studies.nano.loop import Run, Stage, train_stage
from studies.nano.recipe import Recipe

STAGES = ("language", "alignment", "projector", "instruction")
MODELS = {
    "nano-llava": "studies.nano.models.llava",
    "nano-llava-next": "studies.nano.models.llava_next",
    "nano-qwen2.5-vl": "studies.nano.models.qwen2_5_vl",
}
"""Module of each model that can be trained; `studies.nano.models` says what it must offer."""


def train(
    out: Path,
    recipe: Recipe | None = None,
    seed: int = 0,
    stop: tuple[str, int] | None = None,
    model: str = "nano-llava",
) -> Path:
    """Run or resume a training run and return the folder of the finished model.

    Args:
        out: folder of checkpoints, log and model; created if missing.
        recipe: lengths and rates; those of the shipped model if not given.
        seed: decides the weights together with the recipe.
        stop: stage and step after which to raise `Unfinished` (tests of resuming use it).
        model: one of `MODELS`.

    Raises:
        ResPruneError: the model is unknown, or `out` holds checkpoints of another recipe, seed
            or model, or cannot be written.
    """
    module = _module(model)
    recipe = recipe or module.FULL
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResPruneError(f"cannot create --out {out}: {error.strerror}") from error
    _claim(out, _fingerprint(Run(out, recipe, seed), model))
    if recipe.processes == 1:
        _run_stages(Run(out, recipe, seed), model, stop)
    else:
        meeting = out / f"meeting-{os.getpid()}-{time.time_ns()}"
        try:
            multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
                _worker, (out, recipe, seed, model, stop, str(meeting)), nprocs=recipe.processes
            )
        finally:
            meeting.unlink(missing_ok=True)
    return out / "model"


def _module(model: str) -> Any:
    if model not in MODELS:
        raise ResPruneError(f"no recipe trains {model!r}. {near_names(model, MODELS)}")
    return importlib.import_module(MODELS[model])


def _fingerprint(run: Run, model: str) -> str:
    recipe = run.recipe.fingerprint(run.seed)
    return recipe if model == "nano-llava" else f"{model} {recipe}"


def _claim(out: Path, fingerprint: str) -> None:
    """Mark the folder as this recipe's and seed's, or refuse it."""
    mark = out / "fingerprint"
    found = mark.read_text(encoding="utf-8").strip() if mark.exists() else fingerprint
    if found != fingerprint:
        raise ResPruneError(
            f"--out {out} holds a run of another recipe or seed, or of another model; choose "
            "another folder"
        )
    mark.write_text(fingerprint + "\n", encoding="utf-8")


def _worker(
    rank: int,
    out: Path,
    recipe: Recipe,
    seed: int,
    model: str,
    stop: tuple[str, int] | None,
    meeting: str,
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=recipe.processes
    )
    try:
        _run_stages(Run(out, recipe, seed, rank, recipe.processes), model, stop)
    finally:
        dist.destroy_process_group()


def _run_stages(run: Run, model: str, stop: tuple[str, int] | None) -> None:
    began = time.monotonic()
    run.log(start=time.strftime("%Y-%m-%d %H:%M"), fingerprint=_fingerprint(run, model))

    def train_one(stage: Stage) -> None:
        train_stage(run, stage, stop[1] if stop and stop[0] == stage.name else None)

    trained = _module(model).run_stages(run, train_one)
    if run.rank == 0:
        _publish(run, model, trained)
    run.log(finished=str(run.out / "model"), seconds=round(time.monotonic() - began))
    run.wait()


def _publish(run: Run, name: str, model: Any) -> None:
    """Write the model folder under another name, then give it its own."""
    model.generation_config.max_new_tokens = 8
    record = {"seed": run.seed, "recipe": asdict(run.recipe), "torch": torch.__version__}
    if (start := getattr(_module(name), "START", None)) is not None:
        record["start"] = start
    with written_beside(run.out / "model", swap=True) as beside:
        model.save_pretrained(beside)
        _module(name).build_processor().save_pretrained(beside)
        write_json(beside / "training.json", record)
        (beside / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", choices=MODELS, default="nano-llava")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps of each stage")
    arguments = parser.parse_args()
    try:
        recipe = _module(arguments.model).SMOKE if arguments.smoke else None
        train(arguments.out, recipe, arguments.seed, model=arguments.model)
    except ResPruneError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
