"""One call of an attached model: its steps in order, timed, and their record."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from resprune.alpha import AlphaPredictor
from resprune.attaching.question import questions
from resprune.backbones import Backbone, Prepared, VisualTokens
from resprune.layers import LayerPruner, Left
from resprune.plan import Plan, Rule, choose_setting, cosines_of, needs_of, plan_images, signals_of
from resprune.prepare import image_rows
from resprune.prompt import Prompt, PromptReader
from resprune.setting import Adaptive, Setting


@dataclass(frozen=True)
class CallRecord:
    """What the last call through an attached model did.

    Attributes:
        pruned: False when the call passed through (no image in it, a video, or the policy that
            does nothing).
        policy: The policy used, with the options of the call.
        settings: The setting used for each image.
        outside: Whether each image's prompt is unlike those that the predictor of an adaptive
            policy was fitted on, so that it got the best fixed arm.
        questions: The question of each row; empty for a row without an image.
        nouns: The nouns found in it, one list a row; empty where the policy reads none.
        kept_positions: Columns of the original row that were kept, one (n_b,) tensor a row.
        next_positions: Position id of the token after each row, (B,) on the CPU: for decode loops
            that pass a cache and their own position ids.
        rows: The row of each image.
        kept: Sorted kept indices of each image, (k_i,) on the CPU.
        order: The same in pick order.
        visual_tokens: Visual tokens T_i of each image before pruning.
        grids: Rows and columns of each image's tokens.
        timings: Milliseconds by step: ``read_ms``, ``encode_ms``, ``select_ms``, ``prepare_ms``
            and, after ``generate``, ``generate_ms`` (the language model with its decoding).
        inside: What was left inside the LLM, by row, filled in while the prompt runs there; None
            where nothing drops there.
    """

    pruned: bool
    policy: Setting | Adaptive
    settings: list[Setting] = field(default_factory=list)
    outside: list[bool] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    nouns: list[list[str]] = field(default_factory=list)
    kept_positions: list[Tensor] = field(default_factory=list)
    next_positions: Tensor | None = None
    rows: list[int] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    order: list[Tensor] = field(default_factory=list)
    visual_tokens: list[int] = field(default_factory=list)
    grids: list[tuple[int, int]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    inside: Left | None = None

    @property
    def left(self) -> list[Tensor]:
        """Sorted indices of each image that are left in the end, those dropped inside gone."""
        if self.inside is None or not self.inside.entering:
            return self.kept
        found = []
        for row in dict.fromkeys(self.rows):  # a row's images are one pool there
            own = [kept for place, kept in zip(self.rows, self.kept, strict=True) if place == row]
            places, start = self.inside.last(row), 0
            for kept in own:
                inside = (places >= start) & (places < start + len(kept))
                found.append(kept[places[inside] - start])
                start += len(kept)
        return found

    @property
    def cost(self) -> list[float]:
        """Visual tokens averaged over the decoder layers, one number a row."""
        every = range(len(self.questions))
        if self.inside is not None and self.inside.entering:
            return [self.inside.cost(row) for row in every]
        counts = [float(len(kept)) for kept in self.kept]
        return [
            sum(k for place, k in zip(self.rows, counts, strict=True) if place == row)
            for row in every
        ]


class Call:
    """One call with images.

    Args:
        backbone: The model's backbone.
        policy: What to keep and how to choose it.
        predictor: Chooses among the arms of an adaptive policy.
        reader: Reads questions; None where the policy reads no nouns.
        query: The question, one for all or one a row; None recovers it from the ids.
        seed: Seed of methods that draw at random.
        inside: Prunes inside the LLM; None where the policy does nothing there.
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: Setting | Adaptive,
        predictor: AlphaPredictor | None,
        reader: PromptReader | None,
        query: str | Sequence[str | None] | None,
        seed: int,
        inside: LayerPruner | None = None,
    ) -> None:
        self._inside = inside
        self.policy = policy
        self._backbone = backbone
        self._predictor = predictor
        self._reader = reader
        self._query = query
        self._seed = seed
        self._timings: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Write the milliseconds of a step into the record."""
        started = time.perf_counter()
        yield
        self._timings[name] = (time.perf_counter() - started) * 1e3

    def run(self, kwargs: Mapping[str, Any], padding_side: str) -> tuple[Prepared, CallRecord]:
        """Shorten a call.

        Args:
            kwargs: Arguments of the model, with ``input_ids`` and images.
            padding_side: Where the shortened rows are padded.

        Returns:
            The model's inputs, and what was done.
        """
        backbone = self._backbone
        ids: Tensor = kwargs["input_ids"]
        rows = image_rows(ids, backbone.image_lengths(kwargs), backbone.image_token_id)
        with self.timed("read_ms"):
            labels = kwargs.get("labels")
            on_cpu = None if labels is None else labels.cpu()
            asked = questions(backbone, ids.cpu(), on_cpu, self._query, set(rows))
            reader = self._reader
            prompts = {} if reader is None else {row: reader.read(q) for row, q in asked.items()}
        with self.timed("encode_ms"):
            signals = signals_of(needs_of(self.policy), backbone.seed_signals)
            visual = backbone.encode(kwargs, signals=signals)
        with self.timed("select_ms"):
            # a draw of its own for each question and image, whatever the batch
            keys = [f"{self._seed}/{i - rows.index(r)}/{asked[r]}" for i, r in enumerate(rows)]
            settings, outside, plans = self._plan(visual, [prompts.get(row) for row in rows], keys)
            orders = [plan.kept if plan.order is None else plan.order for plan in plans]
            moved = _to_cpu([*(plan.kept for plan in plans), *orders])
            kept, order = moved[: len(plans)], moved[len(plans) :]
        with self.timed("prepare_ms"):
            prepared = backbone.prepare(
                kwargs,
                visual,
                kept,
                positions=self.policy.positions,
                padding_side=padding_side,
                features=[plan.features for plan in plans],
            )
        backbone.before_call(prepared)
        left = None
        if self._inside is not None:
            rules = _row_rules(rows, plans, len(ids))
            left = self._inside.expect(rules, self.policy.positions, prepared.newlines)
        every = range(len(ids))
        return prepared, CallRecord(
            pruned=True,
            policy=self.policy,
            settings=settings,
            outside=outside,
            questions=[asked.get(row, "") for row in every],
            nouns=[list(prompts[row].nouns) if row in prompts else [] for row in every],
            kept_positions=prepared.kept_positions,
            next_positions=prepared.next_positions,
            rows=rows,
            kept=kept,
            order=order,
            visual_tokens=[len(image.tokens) for image in visual],
            grids=[image.grid for image in visual],
            timings=self._timings,
            inside=left,
        )

    def _plan(
        self, visual: list[VisualTokens], prompts: list[Prompt | None], keys: list[str]
    ) -> tuple[list[Setting], list[bool], list[Plan]]:
        policy = self.policy
        pairs = list(zip(visual, prompts, strict=True))
        cosines = [None if asked is None else cosines_of(image, asked) for image, asked in pairs]
        if isinstance(policy, Setting):
            chosen = [(policy, False)] * len(visual)
        else:
            known = [each for each in cosines if each is not None]
            on_cpu = _to_cpu([each.flatten() for each in known])
            chosen = [
                choose_setting(policy, self._predictor, asked, image, seen.view(each.shape))
                for (image, asked), each, seen in zip(pairs, known, on_cpu, strict=True)
                if asked is not None
            ]
        settings = [setting for setting, _ in chosen]
        plans = plan_images(visual, prompts, settings, keys, cosines)
        return settings, [outside for _, outside in chosen], plans


def _row_rules(rows: Sequence[int], plans: Sequence[Plan], count: int) -> list[Rule | None]:
    """Add up the rules of each row's images, which are one pool inside the LLM."""
    found: list[Rule | None] = [None] * count
    for row, plan in zip(rows, plans, strict=True):
        before, rule = found[row], plan.rule
        if before is not None and rule is not None:
            rule = replace(rule, count=before.count + rule.count)
        found[row] = rule
    return found


def _to_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Move 1-D tensors in one copy, so that a GPU is waited for once a call."""
    return list(torch.split(torch.cat(list(tensors)).cpu(), [len(each) for each in tensors]))
