"""One prompt's pass through a decoder, and the steps behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resprune import methods
from resprune.backbones import Backbone
from resprune.errors import ResPruneError
from resprune.layers.left import Left
from resprune.layers.masks import prompt_mask, step_mask
from resprune.layers.support import check_window, schedule
from resprune.layers.view import DecoderView
from resprune.methods.layers import Drop, LayerMethod
from resprune.options import Positions
from resprune.plan import Rule


@dataclass(frozen=True)
class Job:
    """What is to happen to the next prompt.

    Attributes:
        rules: One a row; None leaves a row.
        positions: Position policy.
        newlines: True on newline tokens, shape (B, S); None where there are none.
        left: To be filled in.
    """

    rules: Sequence[Rule | None]
    positions: Positions
    newlines: Tensor | None
    left: Left


@dataclass(frozen=True)
class Stage:
    """What the caches of layers from a drop on hold of the prompt.

    Attributes:
        valid: False on padding, shape (B, n).
        full: Whether there is no padding, known here so that no step waits for the device.
        shift: How far renumbered positions lie behind the original ones, shape (B, 1).
    """

    valid: Tensor
    full: bool
    shift: Tensor


@dataclass
class PrunedPrompt:
    """What is remembered of a prompt, by its cache.

    Attributes:
        length: Its columns S, as layer 0's cache counts them.
        positions: Position policy.
        stages: By the first layer of each.
    """

    length: int
    positions: Positions
    stages: dict[int, Stage] = field(default_factory=dict)

    def stage(self, layer: int) -> Stage | None:
        """Return what a layer's cache holds; None where it holds the whole prompt."""
        below = [first for first in self.stages if first <= layer]
        return self.stages[max(below)] if below else None


class Prefill:
    """The prompt's own pass.

    Columns are those of the prompt, slots those of the hidden states that are left of it: rows of
    unequal length are padded in front.

    Args:
        job: What to do.
        backbone: The model.
        text: Its decoder.
        ids: Token ids, shape (B, S).
        mask: 2-D attention mask, or None.
    """

    def __init__(
        self, job: Job, backbone: Backbone, text: Any, ids: Tensor, mask: Tensor | None
    ) -> None:
        self._text, self._left = text, job.left
        self.prompt = PrunedPrompt(ids.shape[1], job.positions)
        self._valid = torch.ones_like(ids).bool() if mask is None else mask.bool()
        repeats, odd = divmod(len(ids), len(job.rules))  # beams, or several answers a prompt
        if odd:
            raise ResPruneError(f"{len(job.rules)} rules for a batch of {len(ids)}; give one a row")
        self._newline = torch.zeros_like(self._valid)
        if job.newlines is not None:
            self._newline = job.newlines.to(ids.device).repeat_interleave(repeats, 0)
        placeholders = (ids == backbone.image_token_id) & self._valid
        self._visual = placeholders & ~self._newline
        self._present, self._repeats = self._valid, repeats
        self._index: Tensor | None = None
        self._full = False
        self._tokens: list[int] = self._visual.sum(dim=1).tolist()
        rules = [rule for rule in job.rules for _ in range(repeats)]
        ways = {(rule.method, rule.options) for rule in rules if rule is not None}
        if len(ways) != 1:
            raise ResPruneError("one batch takes one method inside the LLM with one set of options")
        [(name, self._options)] = ways
        method = methods.get(name)
        assert isinstance(method, LayerMethod)
        self._method = method
        self._counts = [
            {}
            if rule is None or not tokens
            else schedule(name, rule.options, backbone, tokens, min(rule.count, tokens))
            for rule, tokens in zip(rules, self._tokens, strict=True)
        ]
        self._drops = {layer for counts in self._counts for layer in counts}
        self._visits = self._drops and self._drops | method.reads(self._options, len(text.layers))
        self._memory: dict[str, Any] = {}
        self._shared: dict[tuple[int, int], dict[str, Any]] = {}
        self._left.places.clear()
        self._left.entering = self._tokens[::repeats]
        self._places = self._visual.cumsum(dim=1) - 1  # among the row's visual tokens

    def before(
        self, i: int, hidden: Tensor, kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return what layer i is to get instead of hidden states (B, n, D) and its arguments."""
        if i in self._visits:
            check_window(self._text.layers[i], i, self.prompt.length)
            given = {**kwargs, **self._short(i, hidden, kwargs)}
            counts = [c.get(i, t) for c, t in zip(self._counts, self._tokens, strict=True)]
            view = DecoderView(
                i,
                self._text,
                hidden,
                given["position_embeddings"],
                given.get("attention_mask"),
                self._valid,
                self._visual,
                self._newline,
                counts,
            )
            with torch.no_grad():
                drop = self._method.visit(view, self._memory, self._options)
            if i in self._drops:
                hidden = self._shortened(i, hidden, self._checked(drop, view), view, kwargs)
        return hidden, {**kwargs, **self._short(i, hidden, kwargs)}

    def after(self, output: Tensor) -> Tensor:
        """Return the last layer's output with a row a column again, zeros where it was dropped."""
        if self._index is None:
            return output
        whole = output.new_zeros(len(output), self.prompt.length, output.shape[-1])
        at = self._index[..., None].expand(-1, -1, output.shape[-1])
        return whole.scatter(1, at, output.masked_fill(~self._valid[..., None], 0))

    def _checked(self, drop: Drop | None, view: DecoderView) -> Drop:
        kept = [] if drop is None else drop.kept
        found = [len(slots) for slots in kept]
        if drop is None or found != view.counts:
            raise ResPruneError(
                f"method {self._method.name!r} left {found or 'all'} visual tokens before layer "
                f"{view.index} and was to leave {view.counts}"
            )
        return drop

    def _shortened(
        self, i: int, hidden: Tensor, drop: Drop, view: DecoderView, kwargs: Mapping[str, Any]
    ) -> Tensor:
        """Gather what stays, rows padded in front to the longest."""
        stay = self._valid & ~self._visual
        for b, kept in enumerate(drop.kept):
            slots = view.original(b, kept)
            if len(slots) < self._tokens[b]:
                stay[b] &= ~self._newline[b]
            stay[b, slots] = True
            merged = drop.merged[b] if drop.merged else None
            if merged is not None:
                hidden = hidden.clone()
                hidden[b, view.original(b, merged[0])] = merged[1].to(hidden.dtype)
        lengths = stay.sum(dim=1)
        shortest, longest = torch.stack(lengths.aminmax()).tolist()
        self._full = shortest == longest
        slots = stay.byte().argsort(dim=1, stable=True)[:, -longest:]
        self._index = slots if self._index is None else self._index.gather(1, slots)
        self._valid = stay.gather(1, slots)
        self._visual, self._newline = (
            part.gather(1, slots) & self._valid for part in (self._visual, self._newline)
        )
        self._tokens = view.counts
        self._shared.clear()
        shift = torch.zeros_like(lengths)[:, None]
        if self.prompt.positions == "compact":
            places = kwargs["position_ids"].expand(len(stay), -1).masked_fill(~self._present, -1)
            shift = places.amax(dim=1, keepdim=True) + 1 - lengths[:, None]
        self.prompt.stages[i] = Stage(self._valid, self._full, shift)
        places = self._places.gather(1, self._index)
        rows = range(0, len(places), self._repeats)
        self._left.places[i] = [places[b][self._visual[b]] for b in rows]
        return hidden.gather(1, slots[..., None].expand(-1, -1, hidden.shape[-1]))

    def _short(self, i: int, hidden: Tensor, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what replaces mask and positions, which the model hands to many layers alike."""
        index = self._index
        if index is None:
            return {}
        check_window(self._text.layers[i], i, self.prompt.length)
        mask, rotary = kwargs.get("attention_mask"), kwargs["position_embeddings"]
        key = (id(mask), id(rotary))
        if key not in self._shared:
            if self.prompt.positions == "compact":
                ranks = (self._valid.cumsum(dim=1) - 1).clamp_min(0)
                turned = self._text.rotary_emb(hidden, ranks)
            else:
                wide = [part.expand(len(index), -1, -1) for part in rotary]
                at = index[..., None].expand(-1, -1, wide[0].shape[-1])
                turned = tuple(part.gather(1, at) for part in wide)
            self._shared[key] = {
                "attention_mask": prompt_mask(
                    mask, index, self._valid, self._full, self._text.config
                ),
                "position_embeddings": turned,
                "position_ids": None,  # gaps would mean packed sequences to flash attention
            }
        return self._shared[key]


class Step:
    """Tokens behind a pruned prompt, one or several.

    Args:
        prompt: The prompt.
        text: The decoder.
        past: Tokens in layer 0's cache.
    """

    def __init__(self, prompt: PrunedPrompt, text: Any, past: int) -> None:
        self._prompt, self._text, self._past = prompt, text, past
        self._shared: dict[tuple[int, int, int], dict[str, Any]] = {}

    def before(
        self, i: int, hidden: Tensor, kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return what layer i is to get instead of hidden states (B, q, D) and its arguments."""
        stage = self._prompt.stage(i)
        if stage is None:
            return hidden, dict(kwargs)
        total = self._past + hidden.shape[1]
        check_window(self._text.layers[i], i, total)
        mask, rotary = kwargs.get("attention_mask"), kwargs["position_embeddings"]
        key = (id(stage), id(mask), id(rotary))
        if key not in self._shared:
            repeats, odd = divmod(len(hidden), len(stage.valid))
            if odd:
                raise ResPruneError(
                    f"the cache was pruned with {len(stage.valid)} rows and goes on with "
                    f"{len(hidden)}; keep the batch as it was"
                )
            # rows of one prompt have the same padding, so that beams may change places
            valid = stage.valid.repeat_interleave(repeats, 0)
            found = {
                "attention_mask": step_mask(
                    mask, valid, stage.full, total - self._prompt.length, self._text.config
                )
            }
            if self._prompt.positions == "compact":
                places = kwargs["position_ids"].expand(len(hidden), -1)
                shift = stage.shift.repeat_interleave(repeats, 0)
                found["position_embeddings"] = self._text.rotary_emb(hidden, places - shift)
            self._shared[key] = found
        return hidden, {**kwargs, **self._shared[key]}
