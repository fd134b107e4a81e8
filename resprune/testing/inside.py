"""What a model should answer when visual tokens are dropped inside its LLM: nothing is, but masked.

By code that shares nothing with ``resprune.layers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from resprune import methods
from resprune.layers import LayerPruner, Left
from resprune.options import Positions
from resprune.plan import Rule
from resprune.testing.case import Case


@dataclass
class Dropped:
    """What a pruned call did, for the oracle to do again without dropping.

    Attributes:
        stay: By the layer before which others were dropped, which columns of the prompt stayed,
            shape (B, S), bool.
        merged: By the same layers, rows, columns and hidden states of merged tokens.
    """

    stay: dict[int, Tensor] = field(default_factory=dict)
    merged: dict[int, list[tuple[int, Tensor, Tensor]]] = field(default_factory=dict)


class MaskingOracle:
    """A model whose layers from a drop on do not see what was dropped.

    Args:
        model: The model.
        dropped: What was dropped where.
        positions: Position policy.
    """

    def __init__(self, model: Any, dropped: Dropped, positions: Positions) -> None:
        self._text, self._dropped, self._positions = model.get_decoder(), dropped, positions
        self._hooks: list[Any] = []
        self._length = 0

    def __enter__(self) -> None:
        for i, layer in enumerate(self._text.layers):
            self._hooks.append(layer.register_forward_pre_hook(self._before(i), with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, i: int) -> Callable[..., Any]:
        return lambda _, args, kwargs: self._masked(i, args[0], kwargs)

    def _masked(self, i: int, hidden: Tensor, kwargs: dict[str, Any]) -> Any:
        (batch, new), cache = hidden.shape[:2], kwargs.get("past_key_values")
        total = new if cache is None else new + cache.get_seq_length(i)
        if total == new:
            self._length = new
        layers = [layer for layer in self._dropped.stay if layer <= i]
        if not layers:
            return None
        stay = self._dropped.stay[max(layers)].repeat_interleave(
            batch // len(self._dropped.stay[max(layers)]), 0
        )
        alive = torch.cat([stay, stay.new_ones(batch, total - self._length)], dim=1)
        if i in layers and total == new:
            hidden = hidden.clone()
            for row, columns, states in self._dropped.merged.get(i, []):
                hidden[row, columns] = states
        mask, place = kwargs.get("attention_mask"), torch.arange(total)
        causal = place <= place[-new:, None]
        seen = causal if mask is None else mask if mask.dtype == torch.bool else mask == 0
        seen = (seen & alive[:, None, None]).expand(batch, 1, new, total)
        if self._text.config._attn_implementation == "eager":
            least = torch.finfo(hidden.dtype).min
            seen = torch.zeros(seen.shape, dtype=hidden.dtype).masked_fill(~seen, least)
        changed: dict[str, Any] = {"attention_mask": seen}
        if self._positions == "compact":
            ranks = (alive.cumsum(dim=1) - 1).clamp_min(0)[:, -new:]
            changed["position_embeddings"] = self._text.rotary_emb(hidden, ranks)
        return (hidden,), {**kwargs, **changed}


@contextmanager
def noted(rule: Rule) -> Iterator[list[tuple[int, list[Tensor], Any]]]:
    """Note what a rule's method sees and drops: layer, visual slots and drop of every visit."""
    found: list[tuple[int, list[Tensor], Any]] = []
    cls: Any = type(methods.get(rule.method))
    visit = cls.visit

    def noting(self: Any, view: Any, memory: Any, options: Any) -> Any:
        drop = visit(self, view, memory, options)
        found.append((view.index, view.visual, drop))
        return drop

    with patch.object(cls, "visit", noting):
        yield found


def dropped_of(
    case: Case,
    inputs: Mapping[str, Any],
    left: Left,
    visits: list[tuple[int, list[Tensor], Any]],
    newlines: Tensor | None = None,
) -> Dropped:
    """Say which columns of a prompt stayed, from what was left of its visual tokens.

    Args:
        case: The model.
        inputs: What entered it: ``input_ids`` (B, S) and ``attention_mask``.
        left: What was left.
        visits: What ``noted`` found.
        newlines: True on newline tokens, which go with the first visual token of their row.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    visual = (ids == case.backbone.image_token_id) & mask
    if newlines is not None:
        visual &= ~newlines
    columns = [row.nonzero()[:, 0] for row in visual]
    before, found = list(columns), Dropped()
    drops = {layer: drop for layer, _, drop in visits if drop is not None}
    slots = {layer: seen for layer, seen, _ in visits}
    every = len(next(iter(slots.values()))) // len(ids)  # beams
    for layer, places in left.places.items():
        stay = mask & ~visual
        merged = []
        for row, kept in enumerate(places):
            stay[row, columns[row][kept]] = True
            if newlines is not None and len(kept) < len(columns[row]):
                stay[row] &= ~newlines[row]
            change = drops[layer].merged and drops[layer].merged[row * every]
            if change:
                assert every == 1, "merging is tested without beams"
                which = torch.searchsorted(slots[layer][row], change[0])
                merged.append((row, before[row][which], change[1]))
        before = [columns[row][kept] for row, kept in enumerate(places)]
        found.stay[layer], found.merged[layer] = stay, merged
    return found


def agree(
    case: Case,
    inputs: Mapping[str, Any],
    rules: list[Rule | None],
    positions: Positions = "keep",
    *,
    newlines: Tensor | None = None,
    tolerance: float = 1e-5,
    **options: Any,
) -> tuple[Any, Left]:
    """Generate pruned, then by the oracle, and check that tokens and all logits are the same.

    Args:
        case: The model.
        inputs: What ``generate`` gets.
        rules: One a row.
        positions: Position policy.
        newlines: As of ``LayerPruner.prefill``.
        tolerance: Largest difference of logits.
        **options: For ``generate``.

    Returns:
        The output of the pruned call, and what was left.
    """
    [rule, *_] = [rule for rule in rules if rule is not None]
    torch.manual_seed(1)
    with (
        noted(rule) as visits,
        LayerPruner(case.backbone) as pruner,
        pruner.prefill(rules, positions, newlines) as left,
    ):
        found = generated(case.model, inputs, **options)
    dropped = dropped_of(case, inputs, left, visits, newlines)
    torch.manual_seed(1)
    with MaskingOracle(case.model, dropped, positions):
        expected = generated(case.model, inputs, **options)
    assert torch.equal(found.sequences, expected.sequences), "other tokens"
    for step, (one, other) in enumerate(zip(found.logits, expected.logits, strict=True)):
        apart = float((one - other).abs().max())
        assert apart <= tolerance, f"logits of step {step} are {apart:.1e} apart"
    return found, left


def generated(model: Any, inputs: Mapping[str, Any], **options: Any) -> Any:
    """Generate six tokens with the logits of every step."""
    given = {"max_new_tokens": 6, "do_sample": False, **options}
    return model.generate(**inputs, return_dict_in_generate=True, output_logits=True, **given)
