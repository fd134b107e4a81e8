"""How long and how fast each stage trains; the only place with such numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class StageSettings:
    """Length, batch (of one process) and AdamW settings of a stage.

    The learning rate rises over `warmup` steps, then falls along a cosine to `floor` of its peak.
    """

    steps: int
    batch: int
    rate: float
    weight_decay: float
    warmup: int
    floor: float = 0.02


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, together with the seed."""

    train_scenes: int = 12_000
    monitor_scenes: int = 160
    questions: int = 8
    language: StageSettings = field(
        default_factory=lambda: StageSettings(1200, 12, 1.5e-3, 0.01, 100, 0.04)
    )
    alignment: StageSettings = field(
        default_factory=lambda: StageSettings(600, 16, 1.5e-3, 0.02, 60)
    )
    projector: StageSettings = field(
        default_factory=lambda: StageSettings(600, 16, 1.5e-3, 0.01, 1)
    )
    instruction: StageSettings = field(
        default_factory=lambda: StageSettings(1600, 16, 1.2e-3, 0.02, 60)
    )
    checkpoint_every: int = 100
    monitor_every: int = 200
    processes: int = 2

    def fingerprint(self, seed: int) -> str:
        """Return a short hash of the recipe and the seed, by which checkpoints are recognised."""
        text = json.dumps([asdict(self), seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


FULL = Recipe()
SMOKE = Recipe(
    train_scenes=16,
    monitor_scenes=4,
    language=StageSettings(4, 2, 1.5e-3, 0.01, 2),
    alignment=StageSettings(4, 2, 1.5e-3, 0.02, 2),
    projector=StageSettings(4, 2, 1.5e-3, 0.01, 1),
    instruction=StageSettings(4, 2, 1.2e-3, 0.02, 2),
    checkpoint_every=2,
    monitor_every=4,
)
