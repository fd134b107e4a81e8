"""One backbone under test: its tiny model, its processor, and prompts with images for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from resprune.backbones import for_model
from resprune.config import PruningConfig
from resprune.testing.oracle import Oracle

QUESTIONS = (
    "What color is the dog on the left?",
    "How many people are there?\nAnswer the question using a single word or phrase.",
    "Is there a fire hydrant near the table?",
)
ODD_SIZES = ((0, 0), (1, 1), (1, 90), (402, 2))
"""Heights and widths of images that nobody should send: nothing, a pixel, a line, a strip."""


@dataclass
class Case(Oracle):
    """One backbone under test.

    Attributes:
        model: A tiny random model in float32 and eval mode whose generation config has no end
            token, so that lengths are known.
        processor: Its processor, with a chat template.
        images: At least four images.
        budget: Tokens to keep, fewer than any image has.
        alpha: Alpha of the pruned cases.
        seed_strategy: Seed strategy; None takes the first signal, or ``l2_norm`` without one.
        tolerance: Largest difference of logits relative to the largest logit, in float32.
        bf16_tolerance: The same in bfloat16; a quarter of it in float16, which rounds finer.
        refused_sizes: Those of ``ODD_SIZES`` (height, width) that the family's processor refuses.
        decodes_after_right_padding: Whether the model itself, unpruned, goes on rightly after a
            prompt that is padded on the right; one whose sliding windows count padding does not.
    """

    processor: Any
    images: Sequence[Image.Image]
    budget: int = 5
    alpha: float = 0.75
    seed_strategy: str | None = None
    tolerance: float = 1e-5
    bf16_tolerance: float = 5e-2
    refused_sizes: Collection[tuple[int, int]] = ((0, 0),)
    decodes_after_right_padding: bool = True

    def __post_init__(self) -> None:
        self.backbone = for_model(self.model, self.processor)

    def config(self, budget: int | float | None = None, **options: Any) -> PruningConfig:
        """Make the pruning config of a case."""
        signals = self.backbone.seed_signals
        strategy: Any = self.seed_strategy or (signals[0] if signals else "l2_norm")
        return PruningConfig.single(
            self.budget if budget is None else budget,
            alpha=self.alpha,
            seed_strategy=strategy,
            **options,
        )

    def inputs(self, *rows: Sequence[int], side: str = "left") -> dict[str, Any]:
        """Process a batch.

        Args:
            *rows: The images of each row, as indices into ``images``; none is a text-only row.
            side: Padding side.

        Returns:
            The processor's output.
        """
        texts = [
            self.backbone.chat_prompt(QUESTIONS[row % len(QUESTIONS)], len(used))
            for row, used in enumerate(rows)
        ]
        images = [[self.images[i] for i in used] for used in rows]
        return self.process(texts, images, side)

    def process(
        self, texts: list[str], images: list[list[Image.Image]], side: str
    ) -> dict[str, Any]:
        """Call the processor."""
        options: dict[str, Any] = {"images": images} if any(images) else {}
        return dict(
            self.processor(
                text=texts, return_tensors="pt", padding=True, padding_side=side, **options
            )
        )

    def one(self, row: int, used: Sequence[int]) -> dict[str, Any]:
        """Process one row of ``inputs`` alone, unpadded."""
        text = self.backbone.chat_prompt(QUESTIONS[row % len(QUESTIONS)], len(used))
        return self.process([text], [[self.images[i] for i in used]], "left")
