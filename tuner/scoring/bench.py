"""The bench of a study: the model, its task, and the stores that all splits share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from resprune import NounExtractor
from resprune.backbones import Backbone
from resprune.prompt import PromptReader
from tuner.scoring import metrics
from tuner.scoring.metrics import Metric
from tuner.scoring.model import depth_of, fingerprint, share_cores
from tuner.scoring.outcomes import Outcomes
from tuner.scoring.visual import VisualCache
from tuner.tasks import Task

OUTCOMES_FILE = "outcomes.sqlite"
CACHE_FOLDER = "cache"


@dataclass(frozen=True)
class Bench:
    """What the splits of a study share.

    Attributes:
        backbone: The model.
        model_key: Its fingerprint.
        task: Scores answers.
        metric: What an outcome is worth.
        visual: Encoder outputs; missing ones are computed.
        outcomes: Outcomes of earlier runs.
        reader: Reads questions into nouns.
        batch_size: Rows of one prefill.
        workers: Batches that run at once.
        progress: Called with the outcomes done and in all.
    """

    backbone: Backbone
    model_key: str
    task: Task
    metric: Metric
    visual: VisualCache
    outcomes: Outcomes
    reader: PromptReader
    batch_size: int = 32
    workers: int = 1
    progress: Callable[[int, int], None] | None = None

    @property
    def depth(self) -> int:
        """Decoder layers L of the model."""
        return depth_of(self.backbone)

    @classmethod
    def open(
        cls,
        backbone: Backbone,
        task: Task,
        metric: str,
        folder: Path,
        extractor: NounExtractor,
        *,
        batch_size: int = 32,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Open the stores of a folder for a model and a task.

        Args:
            backbone: The model.
            task: Scores answers.
            metric: Name of the metric.
            folder: Holds, or will hold, the outcomes and the visual cache; it exists.
            extractor: The noun pipeline.
            batch_size: Rows of one prefill.
            progress: Called with the outcomes done and in all.

        Raises:
            StudyError: An unknown metric, or a folder that cannot be written.
        """
        key = fingerprint(backbone.model, backbone.processor)
        text = backbone.text_model
        encoded = key if text is None else f"{key} {text.source}"
        return cls(
            backbone=backbone,
            model_key=key,
            task=task,
            metric=metrics.get(metric),
            visual=VisualCache(folder / CACHE_FOLDER, backbone, encoded, backbone.seed_signals),
            outcomes=Outcomes(folder / OUTCOMES_FILE),
            reader=PromptReader(backbone, extractor),
            batch_size=batch_size,
            workers=share_cores(backbone),
            progress=progress,
        )
