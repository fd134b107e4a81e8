"""What the doctor found, as data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from resprune.setting import Policy
from tuner.results.efficiency import Efficiency

Level = Literal["ok", "note", "problem"]
"""``problem`` makes results wrong or pruning inactive; ``note`` is worth knowing."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Finding(_Row):
    """One line.

    Attributes:
        area: What was looked at: ``packages``, ``pruning``, ...
        name: What the line is about.
        level: How it stands.
        text: What was found, and where it is not ok what to do.
    """

    area: str
    name: str
    level: Level
    text: str


class TileTokens(_Row):
    """One view of an image, numbered as the processor makes them."""

    tile: int
    visual_tokens: int
    kept: int


class ImageTokens(_Row):
    """The visual tokens of one image.

    Attributes:
        visual_tokens: T.
        kept: How many entered the LLM.
        left: How many are left in its last layer; fewer than ``kept`` where a method drops inside.
        newlines: Placeholders that are no visual tokens and end the rows of tiles.
        patches: What the tower sees, where a merger makes one visual token of several (Qwen).
        tiles: By view.
    """

    visual_tokens: int
    kept: int
    left: int
    newlines: int
    patches: int | None
    tiles: tuple[TileTokens, ...]


class Speed(_Row):
    """How fast the first token comes, measured and expected.

    Attributes:
        measured: The run of the bench: the unpruned model, then the policy.
        prefill_share: Share of the unpruned model's first token that is prefill.
        vision_share: Share of it that is the vision tower.
        flops_share: Share of the prefill's arithmetic that is left.
        expected_prefill: How many times faster the prefill would be if time followed arithmetic.
        expected: The same of the first token, whose other parts stay as they are.
        ratio: The first token as measured.
        reasons: Where what was expected went, largest first; empty where nothing is missing.
    """

    measured: Efficiency
    prefill_share: float
    vision_share: float
    flops_share: float
    expected_prefill: float
    expected: float
    ratio: float
    reasons: tuple[str, ...] = ()


class Activity(_Row):
    """What one prompt showed.

    Attributes:
        model: The model.
        model_class: Its class in transformers.
        family: Its backbone's family.
        device: Where it lies.
        dtype: Of its weights.
        attention: Its attention implementation.
        policy: The policy used.
        question: The question.
        nouns: The nouns read from it; empty where the policy reads none.
        active: Whether the LLM ran on fewer visual tokens.
        why: Why it did not; empty where it did.
        rows_whole: Rows of the prompt that entered the LLM without pruning, as a hook on its
            decoder saw them.
        rows: The same with pruning.
        rows_by_layer: Rows in the cache of each layer after the prompt, with pruning.
        images: Visual tokens of each image.
        newlines_kept: Rows that are neither text nor kept visual tokens.
        next_position: Position of the first new token; None where nothing was pruned.
        unpruned: The answer from all tokens.
        pruned: The answer from those kept.
        logit_change: Largest change of a logit of the first new token.
        warnings: What was warned of on the way.
        certificate: What the config certifies for this budget, in a sentence.
        speed: How fast, or why that was not measured; None where nobody asked.
    """

    model: str
    model_class: str
    family: str
    device: str
    dtype: str
    attention: str
    policy: Policy
    question: str
    nouns: tuple[str, ...]
    active: bool
    why: str
    rows_whole: int
    rows: int
    rows_by_layer: tuple[int, ...]
    images: tuple[ImageTokens, ...]
    newlines_kept: int
    next_position: int | None
    unpruned: str
    pruned: str
    logit_change: float
    warnings: tuple[str, ...] = ()
    certificate: str
    speed: Speed | str | None = None

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of all images."""
        return sum(image.visual_tokens for image in self.images)

    @property
    def kept(self) -> int:
        """How many of them entered the LLM."""
        return sum(image.kept for image in self.images)


class Diagnosis(_Row):
    """Everything that the doctor found.

    Attributes:
        version: Version of resprune-tune.
        problems: How many findings are problems.
        findings: A line each.
        activity: What a model showed; None where none was asked for, or it refused.
    """

    version: str
    problems: int
    findings: tuple[Finding, ...]
    activity: Activity | None = None
