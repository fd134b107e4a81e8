"""The conformance suite of methods inside the LLM, on made-up prompts and no model.

class TestMine(LayerConformance):
@pytest.fixture
def case(self) -> MethodCase:
return MethodCase(Mine())
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from resprune.errors import ResPruneError
from resprune.methods.base import Inputs
from resprune.methods.layers import Drop, LayerMethod
from resprune.options import Options
from resprune.testing.methods import MethodCase, OptionsConformance

TOKENS, DEPTHS = 13, (4, 32)
_WIDTH, _HEADS, _KV_HEADS, _HEAD_DIM = 12, 4, 2, 6


@dataclass(frozen=True)
class MadeUpPrompt:
    """A prompt of n tokens, with what each of L layers sees of it as if nothing were dropped.

    Attributes:
        hidden: Hidden states before each layer, shape (L, n, D).
        queries: Rotated queries, shape (L, heads, n, d).
        keys: Rotated keys, shape (L, KV heads, n, d).
        visual: Places of the visual tokens, shape (T,).
    """

    hidden: Tensor
    queries: Tensor
    keys: Tensor
    visual: Tensor


def made_up(
    tokens: int, seed: int = 0, depth: int = 4, before: int = 3, after: int = 5
) -> MadeUpPrompt:
    """Make a prompt of random numbers.

    Args:
        tokens: Visual tokens T; with 0 it has no image.
        seed: Seed of its numbers.
        depth: Decoder layers L.
        before: Text tokens before the image.
        after: Text tokens behind it.

    Returns:
        The prompt.
    """
    draw = torch.Generator().manual_seed(seed)
    n = before + tokens + after
    return MadeUpPrompt(
        torch.randn(depth, n, _WIDTH, generator=draw),
        2 * torch.randn(depth, _HEADS, n, _HEAD_DIM, generator=draw),
        torch.randn(depth, _KV_HEADS, n, _HEAD_DIM, generator=draw),
        torch.arange(before, before + tokens),
    )


class MadeUpView:
    """A ``LayerView`` of prompts of which some tokens are left, padded in front with noise."""

    def __init__(
        self,
        prompts: Sequence[MadeUpPrompt],
        places: Sequence[Tensor],
        index: int,
        counts: list[int],
        padding: int = 0,
    ) -> None:
        """Show a layer.

        Args:
            prompts: B prompts.
            places: Rising places of each prompt's tokens that are left.
            index: The layer.
            counts: As of ``LayerView``.
            padding: Slots of padding in front of the longest row.
        """
        self.index, self.depth, self.counts = index, len(prompts[0].hidden), counts
        n = max(map(len, places)) + padding
        self.valid = torch.stack([torch.arange(n) >= n - len(row) for row in places])
        pairs = list(zip(prompts, places, strict=True))
        self.hidden = torch.stack([_padded(p.hidden[index, row], n) for p, row in pairs])
        self._queries = torch.stack([_padded(p.queries[index][:, row], n) for p, row in pairs])
        self._keys = torch.stack([_padded(p.keys[index][:, row], n) for p, row in pairs])
        self.visual: list[Tensor] = []
        self.text: list[Tensor] = []
        for prompt, row in pairs:
            slots = torch.isin(row, prompt.visual).nonzero()[:, 0] + n - len(row)
            self.visual.append(slots)
            first = int(slots[-1]) + 1 if len(slots) else n - len(row)
            self.text.append(torch.arange(first, n))

    def keys(self) -> Tensor:
        """As of ``LayerView``."""
        return self._keys

    def attention(self, row: int, slots: Tensor) -> Tensor:
        """As of ``LayerView``."""
        queries, keys = self._queries[row][:, slots], self._keys[row]
        keys = keys.repeat_interleave(len(queries) // len(keys), dim=0)
        seen = (torch.arange(keys.shape[1]) <= slots[:, None]) & self.valid[row]
        logits: Tensor = (queries @ keys.transpose(1, 2)).float() / keys.shape[2] ** 0.5
        return logits.masked_fill(~seen, -torch.inf).softmax(dim=2)

    def normed(self) -> Tensor:
        """As of ``LayerView``; the root mean square of each state is 1."""
        size = self.hidden.square().mean(dim=2, keepdim=True).sqrt()
        return self.hidden.div(size)


@dataclass(frozen=True)
class Dropped:
    """What a drop left of one prompt.

    Attributes:
        kept: Places of the visual tokens that stayed, shape (k,).
        merged: Places among them and the states that replaced theirs; None without merging.
    """

    kept: Tensor
    merged: tuple[Tensor, Tensor] | None


def run_rule(
    method: LayerMethod[Any],
    options: Options,
    prompts: Sequence[MadeUpPrompt],
    k: int,
    padding: int = 0,
) -> list[dict[int, Dropped]]:
    """Run a method over the layers of a batch of prompts, and check each drop.

    Args:
        method: The method.
        options: Its options.
        prompts: B prompts of one depth.
        k: Visual tokens left of each in the end, where it has as many.
        padding: Slots of padding in front of the longest row.

    Returns:
        What each drop left, by layer, one dict a prompt.
    """
    depth, memory = len(prompts[0].hidden), dict[str, Any]()
    schedules = [
        method.schedule(options, depth, len(p.visual), min(k, len(p.visual)))
        if len(p.visual)
        else {}
        for p in prompts
    ]
    drops = set[int]().union(*schedules)
    places = [torch.arange(prompt.hidden.shape[1]) for prompt in prompts]
    visual = [prompt.visual for prompt in prompts]
    found: list[dict[int, Dropped]] = [{} for _ in prompts]
    for layer in sorted(drops | method.reads(options, depth)):
        counts = [s.get(layer, len(v)) for s, v in zip(schedules, visual, strict=True)]
        view = MadeUpView(prompts, places, layer, counts, padding)
        drop = method.visit(view, memory, options)
        if layer not in drops:
            assert drop is None, f"it drops before layer {layer}, which it only reads"
            continue
        assert drop is not None, f"it drops nothing before layer {layer}"
        check_drop(drop, view)
        for b, (prompt, kept) in enumerate(zip(prompts, drop.kept, strict=True)):
            shift = view.hidden.shape[1] - len(places[b])
            stayed, merged = places[b][kept - shift], drop.merged and drop.merged[b]
            if merged:
                merged = (places[b][merged[0] - shift], merged[1])
            found[b][layer] = Dropped(stayed, merged or None)
            text = ~torch.isin(places[b], prompt.visual)
            places[b] = places[b][text | torch.isin(places[b], stayed)]
            visual[b] = stayed
    return found


def check_drop(drop: Drop, view: MadeUpView) -> None:
    """Check that a drop keeps what its layer leaves, in the documented form."""
    assert len(drop.kept) == len(view.visual), "not one entry a row"
    for kept, slots, count in zip(drop.kept, view.visual, view.counts, strict=True):
        assert kept.dtype == torch.int64, f"slots are {kept.dtype}, not int64"
        assert kept.shape == (count,), f"{tuple(kept.shape)} slots; the layer leaves {count}"
        assert bool((kept.diff() > 0).all()), "slots are not sorted, or kept twice"
        assert bool(torch.isin(kept, slots).all()), "a slot is not that of a visual token"
    if drop.merged is None:
        return
    assert len(drop.merged) == len(view.visual), "not one entry a row"
    for kept, merged in zip(drop.kept, drop.merged, strict=True):
        if merged is not None:
            slots, states = merged
            assert len(set(slots.tolist()) & set(kept.tolist())) == len(slots), "a slot is not kept"
            assert states.shape == (len(slots), view.hidden.shape[2]), "not one state a slot"
            assert states.dtype == view.hidden.dtype, "states have another dtype"
            assert bool(states.isfinite().all()), "states are not finite"


class LayerConformance(OptionsConformance):
    """What every method inside the LLM keeps to; subclass it and give a ``case`` fixture."""

    def test_it_says_what_it_is(self, case: MethodCase) -> None:
        """Name, version, stage, positions and notes are of the kinds that are documented."""
        method = _inside(case)
        assert isinstance(method.name, str)
        assert method.name
        assert isinstance(method.version, str)
        assert method.stage == "layers"
        assert method.published in ("keep", "compact")
        assert not method.nested
        for options in case.options:
            notes = method.notes(options, 4, "keep")
            assert isinstance(notes, tuple)
            assert all(isinstance(note, str) for note in notes)
        with pytest.raises(ResPruneError, match="inside the LLM"):
            method.select(Inputs(torch.zeros(3, 2)), 1, case.options[0])

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_schedules_end_at_the_budget(self, case: MethodCase, depth: int) -> None:
        """Layers rise from 1 on, counts do not rise, the last is k; reads come before it."""
        method = _inside(case)
        for options in case.options:
            for tokens in (1, 2, TOKENS, 576):
                for k in range(1, tokens + 1):
                    schedule = method.schedule(options, depth, tokens, k)
                    layers, counts = list(schedule), [tokens, *schedule.values()]
                    assert layers == sorted(set(layers))
                    assert 1 <= layers[0] <= layers[-1] < depth
                    assert counts == sorted(counts, reverse=True)
                    assert counts[-1] == k
                    reads = method.reads(options, depth)
                    assert all(0 <= layer < layers[-1] for layer in reads - set(layers))

    @pytest.mark.parametrize("tokens", [1, 2, TOKENS])
    def test_exactly_the_budget(self, case: MethodCase, tokens: int) -> None:
        """Each layer leaves what it should, for one token and all; nothing merges with all kept."""
        method, prompt = _inside(case), made_up(tokens)
        for options in case.options:
            for k in (*range(1, tokens + 1), tokens + 3):
                [found] = run_rule(method, options, [prompt], k)
            assert all(drop.merged is None for drop in found.values())

    def test_neighbours_and_padding_change_nothing(self, case: MethodCase) -> None:
        """A row keeps what it keeps alone, among longer rows and rows without an image."""
        method = _inside(case)
        prompts = [made_up(TOKENS, 1), made_up(0, 2), made_up(20, 3), made_up(TOKENS, 4, before=1)]
        for options in case.options:
            for k in (2, 8):
                found = run_rule(method, options, prompts, k, padding=2)
                for prompt, own in zip(prompts, found, strict=True):
                    [alone] = run_rule(method, options, [prompt], k)
                    for layer, drop in alone.items():
                        _check_same(own[layer], drop)

    def test_calls_repeat(self, case: MethodCase) -> None:
        """The same prompts keep the same, whatever the global generator is at."""
        method = _inside(case)
        for options in case.options:
            runs = []
            for seed in (0, 1):
                torch.manual_seed(seed)
                [found] = run_rule(method, options, [made_up(TOKENS)], 5)
                runs.append(found)
            for layer, drop in runs[0].items():
                _check_same(runs[1][layer], drop)

    def test_equal_tokens_are_told_apart(self, case: MethodCase) -> None:
        """Where all visual tokens are one and the same the count is exact all the same."""
        method, prompt = _inside(case), made_up(TOKENS)
        for states in (prompt.hidden, *prompt.keys.unbind(1)):
            states[:, prompt.visual] = states[:, prompt.visual[:1]]
        for options in case.options:
            for k in range(1, TOKENS + 1):
                run_rule(method, options, [prompt], k)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_any_dtype_will_do(self, case: MethodCase, dtype: torch.dtype) -> None:
        """The model's dtype is that of merged states."""
        method, prompt = _inside(case), made_up(TOKENS)
        cast = replace(
            prompt,
            hidden=prompt.hidden.to(dtype),
            queries=prompt.queries.to(dtype),
            keys=prompt.keys.to(dtype),
        )
        for options in case.options:
            run_rule(method, options, [cast], 5)


def _inside(case: MethodCase) -> LayerMethod[Any]:
    assert isinstance(case.method, LayerMethod)
    return case.method


def _check_same(found: Dropped, expected: Dropped) -> None:
    assert torch.equal(found.kept, expected.kept), "it keeps others"
    assert (found.merged is None) == (expected.merged is None)
    if found.merged is not None and expected.merged is not None:
        assert torch.equal(found.merged[0], expected.merged[0]), "it merges others"
        torch.testing.assert_close(found.merged[1], expected.merged[1])


def _padded(rows: Tensor, n: int) -> Tensor:
    """Put noise in front of the last dimension but one, so that reading it is seen."""
    noise = rows.new_full((*rows.shape[:-2], n - rows.shape[-2], rows.shape[-1]), 50.0)
    return torch.cat([noise, rows], dim=-2)
