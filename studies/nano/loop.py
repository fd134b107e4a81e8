"""A fixed number of steps in lockstep processes, resumable to the bit.

Every step draws from generators seeded by (seed, stage, step, rank), so that a resumed run sees
what an uninterrupted one would have seen. Checkpoints are safetensors, the optimizer's state
included, and are replaced atomically.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from resprune.files import written_beside
from studies.nano.recipe import Recipe, StageSettings


class Draws:
    """The random numbers of one step of one process."""

    def __init__(self, *key: object) -> None:
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        seed = int.from_bytes(digest[:7], "big")
        self.python = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(*shape, generator=self.torch)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal."""
        return torch.randn(*shape, generator=self.torch)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        """Integers in [0, high)."""
        return torch.randint(0, high, shape, generator=self.torch)


@dataclass(frozen=True)
class Run:
    """One process's part in a training run."""

    out: Path
    recipe: Recipe
    seed: int
    rank: int = 0
    processes: int = 1

    def draws(self, *key: object) -> Draws:
        """Return this process's random numbers for a key such as (stage, step)."""
        return Draws(self.seed, *key, self.rank)

    def log(self, **entry: object) -> None:
        """Append an entry to `log.jsonl` and show it; only the first process does."""
        if self.rank == 0:
            line = json.dumps(entry)
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            print(line, flush=True)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.processes > 1:
            dist.barrier()


class Stage(Protocol):
    """What the loop needs of a stage."""

    name: str
    settings: StageSettings

    @property
    def module(self) -> torch.nn.Module:
        """Holds every weight that the checkpoint keeps."""

    def groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Trained parameters, with a factor on the learning rate."""

    def loss(self, draws: Draws, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of this process's batch, and what to log."""

    def monitor(self) -> dict[str, Any]:
        """Measure on the monitor split; touches no weight and no training randomness."""


class Unfinished(Exception):
    """Raised when a run was told to stop after a number of steps, for tests of resuming."""


def train_stage(run: Run, stage: Stage, stop_at: int | None = None) -> None:
    """Train a stage from its checkpoint, or from the start, to its last step.

    Raises:
        Unfinished: step `stop_at` is done.
    """
    settings, path = stage.settings, checkpoint_path(run.out, stage.name)
    groups = stage.groups()
    parameters = [p for group, _ in groups for p in group]
    optimizer = torch.optim.AdamW(
        [{"params": group, "factor": factor} for group, factor in groups],
        lr=settings.rate,
        weight_decay=settings.weight_decay,
        betas=(0.9, 0.98),
    )
    first = _restore(run, stage, optimizer) if path.exists() else 0
    smooth: dict[str, float] = {}
    began = time.monotonic()
    stage.module.train()
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(settings, step)
        loss, terms = stage.loss(run.draws(stage.name, step), step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        _average_gradients(run, parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        done = step + 1
        for key, value in {"loss": loss.item(), **terms}.items():
            smooth[key] = 0.97 * smooth.get(key, value) + 0.03 * value
        last = done == settings.steps
        if last or done % run.recipe.monitor_every == 0:
            stage.module.eval()
            measured = stage.monitor() if run.rank == 0 else {}
            stage.module.train()
            run.log(
                stage=stage.name,
                step=done,
                seconds=round(time.monotonic() - began),
                **{k: round(v, 4) for k, v in smooth.items()},
                **measured,
            )
        if last or done % run.recipe.checkpoint_every == 0:
            if run.rank == 0:
                _save(run, stage, optimizer, done)
            run.wait()
        if done == stop_at:
            raise Unfinished(f"{stage.name} stopped after step {done}")
    stage.module.eval()


def learning_rate(settings: StageSettings, step: int) -> float:
    """Return the learning rate of a step: linear warm-up times a cosine to the floor."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    warm = min(1.0, (step + 1) / settings.warmup)
    return settings.rate * warm * (settings.floor + (1 - settings.floor) * cosine)


def checkpoint_path(out: Path, stage: str) -> Path:
    """Return where a stage's checkpoint lies."""
    return out / "checkpoints" / f"{stage}.safetensors"


def load_weights(module: torch.nn.Module, path: Path, prefixes: Iterable[str] = ("",)) -> None:
    """Copy those weights of a checkpoint whose names start with one of the prefixes."""
    tensors = _read(path)
    chosen = tuple(prefixes)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith(chosen):
                parameter.copy_(tensors[f"model/{name}"])


def finished(out: Path, stage: str, settings: StageSettings) -> bool:
    """Return whether a stage's checkpoint is that of its last step."""
    path = checkpoint_path(out, stage)
    return path.exists() and int(_metadata(path)["step"]) == settings.steps


def _average_gradients(run: Run, parameters: list[torch.nn.Parameter]) -> None:
    if run.processes == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= run.processes
    pieces = torch.split(flat, [p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


def _read(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _metadata(path: Path) -> Mapping[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def _trained(stage: Stage) -> list[tuple[str, torch.nn.Parameter]]:
    ids = {id(p) for group, _ in stage.groups() for p in group}
    return [(name, p) for name, p in stage.module.named_parameters() if id(p) in ids]


def _save(run: Run, stage: Stage, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model/{n}": p.detach().contiguous() for n, p in stage.module.named_parameters()}
    for name, parameter in _trained(stage):
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value.contiguous()
    metadata = {"step": str(step)}
    path = checkpoint_path(run.out, stage.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as beside:
        save_file(tensors, beside, metadata)


def _restore(run: Run, stage: Stage, optimizer: torch.optim.Optimizer) -> int:
    path = checkpoint_path(run.out, stage.name)
    load_weights(stage.module, path)
    tensors = _read(path)
    for name, parameter in _trained(stage):
        optimizer.state[parameter] = {
            key: tensors[f"optimizer/{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return int(_metadata(path)["step"])
