"""Train nano-llava: `python -m studies.nano.train --out DIR [--seed 0] [--smoke]`.

Runs all stages in two single-thread processes, and goes on where an interrupted run stopped. The
model, its processor and `training.json` end up in DIR/model; DIR/log.jsonl keeps the log.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from resprune.errors import ResPruneError
from studies.nano.data import prepare_features, prepare_scenes
from studies.nano.loop import Run, Stage, checkpoint_path, finished, load_weights, train_stage
from studies.nano.model import build_model
from studies.nano.processor import build_processor
from studies.nano.recipe import FULL, SMOKE, Recipe
from studies.nano.stages.alignment import AlignmentStage
from studies.nano.stages.instruction import InstructionStage
from studies.nano.stages.language import LanguageStage
from studies.nano.stages.projector import ProjectorStage
from studies.nano.words import build_codebook

STAGES = ("language", "alignment", "projector", "instruction")


def train(
    out: Path, recipe: Recipe = FULL, seed: int = 0, stop: tuple[str, int] | None = None
) -> Path:
    """Run or resume a training run and return the folder of the finished model.

    Args:
        out: folder of checkpoints, log and model; created if missing.
        recipe: lengths and rates.
        seed: decides the weights together with the recipe.
        stop: stage and step after which to raise `Unfinished` (tests of resuming use it).

    Raises:
        ResPruneError: `out` holds checkpoints of another recipe or seed, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResPruneError(f"cannot create --out {out}: {error.strerror}") from error
    _claim(out, recipe.fingerprint(seed))
    if recipe.processes == 1:
        _run_stages(Run(out, recipe, seed), stop)
    else:
        meeting = out / f"meeting-{os.getpid()}-{time.time_ns()}"
        try:
            multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
                _worker, (out, recipe, seed, stop, str(meeting)), nprocs=recipe.processes
            )
        finally:
            meeting.unlink(missing_ok=True)
    return out / "model"


def _claim(out: Path, fingerprint: str) -> None:
    """Mark the folder as this recipe's and seed's, or refuse it."""
    mark = out / "fingerprint"
    found = mark.read_text(encoding="utf-8").strip() if mark.exists() else fingerprint
    if found != fingerprint:
        raise ResPruneError(
            f"--out {out} holds a run of another recipe or seed; choose another folder"
        )
    mark.write_text(fingerprint + "\n", encoding="utf-8")


def _worker(
    rank: int, out: Path, recipe: Recipe, seed: int, stop: tuple[str, int] | None, meeting: str
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=recipe.processes
    )
    try:
        _run_stages(Run(out, recipe, seed, rank, recipe.processes), stop)
    finally:
        dist.destroy_process_group()


def _run_stages(run: Run, stop: tuple[str, int] | None) -> None:
    recipe, began = run.recipe, time.monotonic()
    run.log(start=time.strftime("%Y-%m-%d %H:%M"), fingerprint=recipe.fingerprint(run.seed))
    model, codebook = build_model(run.seed), build_codebook(run.seed)

    def train_one(stage: Stage) -> None:
        train_stage(run, stage, stop[1] if stop and stop[0] == stage.name else None)

    if not finished(run.out, "language", recipe.language):
        train_one(LanguageStage(run, model, codebook))
    scenes = prepare_scenes(run, "train", recipe.train_scenes)
    monitor = prepare_scenes(run, "monitor", recipe.monitor_scenes)
    run.log(data="ready", seconds=round(time.monotonic() - began))
    if not finished(run.out, "alignment", recipe.alignment):
        train_one(AlignmentStage(run, model, codebook, scenes, monitor))
    parts = ("model.vision_tower.", "model.multi_modal_projector.")
    load_weights(model, checkpoint_path(run.out, "alignment"), parts)
    features = prepare_features(run, model.model.vision_tower, scenes)
    if not finished(run.out, "projector", recipe.projector):
        train_one(ProjectorStage(run, model, codebook, scenes, features, monitor))
    load_weights(model, checkpoint_path(run.out, "projector"), parts)
    load_weights(model, checkpoint_path(run.out, "language"), ("model.language_model.",))
    train_one(InstructionStage(run, model, scenes, features, monitor))
    if run.rank == 0:
        _publish(run, model)
    run.log(finished=str(run.out / "model"), seconds=round(time.monotonic() - began))
    run.wait()


def _publish(run: Run, model: Any) -> None:
    """Write the model folder under another name, then give it its own."""
    final, part = run.out / "model", run.out / "model.part"
    shutil.rmtree(part, ignore_errors=True)
    model.generation_config.max_new_tokens = 8
    model.save_pretrained(part)
    build_processor().save_pretrained(part)
    record = {"seed": run.seed, "recipe": asdict(run.recipe), "torch": torch.__version__}
    (part / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (part / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps of each stage")
    arguments = parser.parse_args()
    try:
        train(arguments.out, SMOKE if arguments.smoke else FULL, arguments.seed)
    except ResPruneError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
