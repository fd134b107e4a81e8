"""Conformance suites for methods of the stage ``tokens``.

Every method joins ``MethodConformance``, and the mixin of each thing that it claims:

    class TestMine(MethodConformance, NestedConformance):
        @pytest.fixture
        def case(self) -> MethodCase:
            return MethodCase(Mine())

``NestedConformance`` is for ``nested = True``, ``BatchedConformance`` for ``order_many``, and
``MergingConformance`` for methods that replace features.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from resprune.errors import ConfigError, ResPruneError
from resprune.methods import Batch, Inputs, Method, Nested, Selection
from resprune.methods.base import ATTENTION
from resprune.options import Options, read_options, searchable, with_values

KINDS = (
    "random",
    "tiles",
    "copies",
    "duplicates",
    "rank one",
    "zeros",
    "some zeros",
    "constant signals",
    "no signal",
)
"""Images on which published rules break, and two on which they do not."""
TOKENS, WIDTH = 21, 24
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class Foreign(Options):
    """Options of no method."""

    nonsense: int = 1


@dataclass
class MethodCase:
    """A method under test.

    Attributes:
        method: The method.
        options: Options to test it under; left out, its defaults, and each searched option at the
            ends of its range or at each of its choices.
    """

    method: Method[Any]
    options: Sequence[Options] = field(default=())

    def __post_init__(self) -> None:
        self.options = self.options or list(dict.fromkeys(_variants(self.method.options())))

    def image(self, kind: str = "random", tokens: int = TOKENS, seed: int = 0) -> Inputs:
        """Make an image with everything that the method may read.

        Tokens are multiples of 1/32 that every float dtype holds, so that changing it changes none.

        Args:
            kind: One of ``KINDS``.
            tokens: T.
            seed: Seed of its numbers.
        """
        draw = torch.Generator().manual_seed(seed)
        values = (torch.randn(tokens, WIDTH, generator=draw) * 32).round().clamp(-127, 127) / 32
        if kind == "copies":
            values = values[torch.arange(tokens) // 2]
        elif kind == "duplicates":
            values = values[:1].expand(tokens, -1).clone()
        elif kind == "rank one":
            values = torch.arange(tokens)[:, None] / 16 * values[:1].sign()
        elif kind == "zeros":
            values = torch.zeros_like(values)
        elif kind == "some zeros":
            values[::3] = 0
        named = frozenset[str]().union(*(self.method.needs(each) for each in self.options))
        names = sorted({"cls_attention", "received_attention"} | named - {ATTENTION, "relevance"})
        signals = {name: torch.rand(tokens, generator=draw) for name in names}
        relevance = torch.rand(tokens, generator=draw).clamp_min(0.01)
        if kind in ("constant signals", "no signal"):
            relevance = torch.ones_like(relevance)
            signals = dict.fromkeys(names, relevance * (kind != "no signal") / 2)
        index = torch.arange(tokens)
        tile = index // 12 if kind == "tiles" else torch.zeros_like(index)
        within = index - 12 * tile
        places = torch.stack([tile, within // 3, within % 3], dim=1)
        return Inputs(values, relevance, signals, places=places, key=f"sample {seed}")


def _variants(options: Options) -> Iterator[Options]:
    yield options
    for name, search in searchable(type(options)).items():
        for value in (search.low, search.high, *search.choices):
            if value is not None:
                yield with_values(options, {name: value})


def check_selection(selection: Selection, image: Inputs, k: int) -> None:
    """Check that a selection keeps exactly ``min(k, T)`` unique tokens, in its documented form."""
    tokens, kept = image.tokens, min(k, len(image.tokens))
    indices, features = selection.indices, selection.features
    assert indices.dtype == torch.int64, f"indices are {indices.dtype}, not int64"
    assert indices.shape == (kept,), f"{tuple(indices.shape)} indices; asked for {kept}"
    assert set(indices.tolist()) <= set(range(len(tokens))), "an index is out of range"
    assert len(set(indices.tolist())) == kept, "an index is kept twice"
    assert indices.device == tokens.device
    if features is not None:
        assert features.shape == (kept, tokens.shape[1]), "features are not (k, d)"
        assert features.dtype == tokens.dtype, "features have another dtype than the tokens"
        assert features.device == tokens.device
        assert bool(features.isfinite().all()), "features are not finite"


def same(first: Selection, second: Selection) -> bool:
    """Whether two selections are equal to the bit."""
    if not torch.equal(first.indices, second.indices):
        return False
    if first.features is None or second.features is None:
        return first.features is second.features
    return torch.equal(first.features, second.features)


def only(image: Inputs, needs: frozenset[str], attention: str = "cls_attention") -> Inputs:
    """Return an image that holds what ``Method.needs`` names and nothing more."""
    named = {attention if name == ATTENTION else name for name in needs}
    return replace(
        image,
        relevance=image.relevance if "relevance" in needs else None,
        signals={name: value for name, value in image.signals.items() if name in named},
        extras={},
    )


def _budgets(tokens: int) -> list[int]:
    return sorted({k for k in (1, 2, 5, 8, tokens - 1, tokens, tokens + 3) if k > 0})


class OptionsConformance:
    """What the options of every method keep to."""

    @pytest.fixture
    def case(self) -> MethodCase:
        """The method under test; a subclass must give it."""
        raise NotImplementedError("give a `case` fixture that returns a MethodCase")

    def test_options_are_values(self, case: MethodCase) -> None:
        """They have defaults, cannot change, can be keys, and come back from JSON."""
        kind = case.method.options
        assert issubclass(kind, Options)
        assert kind() == kind()
        assert kind.model_config.get("frozen"), "options can be changed"
        for options in case.options:
            assert isinstance(options, kind)
            hash(options)
            assert kind.model_validate_json(options.model_dump_json()) == options

    def test_foreign_options_are_refused(self, case: MethodCase) -> None:
        """Unknown names, here and in nested tables, and another method's options."""
        kind = case.method.options
        nested = {
            name: {"nonsense": 1}
            for name, field_ in kind.model_fields.items()
            if isinstance(field_.annotation, type) and issubclass(field_.annotation, BaseModel)
        }
        wrong: list[Any] = [{"nonsense": 1}, Foreign(), *({key: nested[key]} for key in nested)]
        for data in wrong:
            with pytest.raises(ConfigError):
                read_options(kind, data)


class MethodConformance(OptionsConformance):
    """What every method keeps to; subclass it and give a ``case`` fixture."""

    def test_it_says_what_it_is(self, case: MethodCase) -> None:
        """Name, version, stage and claims are of the kinds that are documented."""
        method = case.method
        assert isinstance(method.name, str)
        assert method.name
        assert isinstance(method.version, str)
        assert method.stage == "tokens"
        assert method.nested or not isinstance(method, Nested), "Nested methods are nested"
        for options in case.options:
            needs = method.needs(options)
            assert isinstance(needs, frozenset)
            assert all(isinstance(name, str) for name in needs)

    @pytest.mark.parametrize("kind", KINDS)
    def test_exactly_the_budget(self, case: MethodCase, kind: str) -> None:
        """``min(k, T)`` unique tokens in range, for one token and all, whatever the image."""
        for tokens in (1, 2, TOKENS):
            image = case.image(kind, tokens)
            for options in case.options:
                for k in _budgets(tokens):
                    check_selection(case.method.select(image, k, options), image, k)

    def test_calls_repeat(self, case: MethodCase) -> None:
        """The same call gives the same answer, whatever global generators are at."""
        image = case.image()
        for options in case.options:
            found = []
            for seed in (0, 1):
                torch.manual_seed(seed)
                np.random.seed(seed)
                random.seed(seed)
                found.append(case.method.select(image, 8, options))
            assert same(*found), "two equal calls differ"

    def test_inputs_are_not_changed(self, case: MethodCase) -> None:
        """What the caller gave stays as it was."""
        image, before = case.image(), case.image()
        for options in case.options:
            case.method.select(image, 8, options)
            case.method.weights(image, options)
        for each in fields(Inputs):
            now, then = getattr(image, each.name), getattr(before, each.name)
            if isinstance(now, Tensor):
                assert torch.equal(now, then), f"{each.name} was changed"
            elif isinstance(now, dict):
                assert now.keys() == then.keys(), f"{each.name} was changed"
                assert all(torch.equal(now[name], then[name]) for name in now), each.name

    def test_needs_are_honest(self, case: MethodCase) -> None:
        """It reads nothing that it does not name, and misses everything that it names."""
        image = case.image()
        for options in case.options:
            needs = case.method.needs(options)
            bare = only(image, needs)
            expected = case.method.select(image, 8, options)
            assert same(case.method.select(bare, 8, options), expected), "it reads more"
            for name in needs:
                with pytest.raises(ResPruneError):
                    case.method.select(only(image, needs - {name}), 8, options)

    def test_received_attention_stands_in(self, case: MethodCase) -> None:
        """Where a method needs attention, a tower without CLS serves it."""
        image = case.image()
        twin = {**image.signals, "received_attention": image.signals["cls_attention"]}
        for options in case.options:
            needs = case.method.needs(options)
            if ATTENTION in needs:
                found = [
                    case.method.select(
                        only(replace(image, signals=twin), needs, signal), 8, options
                    )
                    for signal in ("cls_attention", "received_attention")
                ]
                assert same(*found)

    def test_dtype_changes_nothing_but_rounding(self, case: MethodCase) -> None:
        """Equal numbers in another dtype keep the same tokens, and features within its rounding."""
        # Few of many tokens: late picks of some rules tie exactly, and rounding decides.
        image, k = case.image(tokens=3 * TOKENS), 5
        for options in case.options:
            expected = case.method.select(image, k, options)
            for dtype in DTYPES:
                cast = replace(image, tokens=image.tokens.to(dtype))
                found = case.method.select(cast, k, options)
                check_selection(found, cast, k)
                assert torch.equal(found.indices, expected.indices), f"{dtype} keeps others"
                if expected.features is not None:
                    assert found.features is not None
                    wide = expected.features.double()
                    allowed = 8 * torch.finfo(dtype).eps + 1e-6
                    worst = (found.features.double() - wide).abs().max() / wide.abs().max()
                    assert worst <= allowed, f"features in {dtype} are off by {float(worst):.1e}"

    def test_bad_input_is_refused(self, case: MethodCase) -> None:
        """A count below 1, an image without tokens, and numbers that are not finite."""
        image = case.image()
        broken = image.tokens.clone()
        broken[2, 1] = torch.nan
        for options in case.options:
            for k in (0, -1):
                with pytest.raises(ResPruneError, match="budget"):
                    case.method.select(image, k, options)
            for tokens in (image.tokens[:0], broken):
                with pytest.raises(ResPruneError):
                    case.method.select(replace(image, tokens=tokens), 1, options)


class NestedConformance:
    """What ``nested = True`` claims."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_smaller_budget_is_a_prefix(self, case: MethodCase, kind: str) -> None:
        """The order of the largest budget begins with that of every smaller one."""
        assert case.method.nested
        image = case.image(kind)
        for options in case.options:
            longest = case.method.select(image, TOKENS, options).indices.tolist()
            for k in range(1, TOKENS):
                found = case.method.select(image, k, options).indices.tolist()
                assert found == longest[:k], f"the order at {k} is no prefix"

    @pytest.mark.parametrize("kind", KINDS)
    def test_weights_of_energy_budgets(self, case: MethodCase, kind: str) -> None:
        """One a token, not negative and finite; or None."""
        image = case.image(kind)
        for options in case.options:
            weights = case.method.weights(only(image, case.method.needs(options)), options)
            if weights is not None:
                assert weights.shape == (TOKENS,), "not one weight a token"
                assert bool((weights.isfinite() & (weights >= 0)).all()), "a weight is negative"


class BatchedConformance:
    """What ``Nested`` methods claim: a batch equals its images one by one."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("lengths", [(21, 21), (21, 5, 13)], ids=["even", "ragged"])
    def test_a_batch_equals_its_images(
        self, case: MethodCase, kind: str, lengths: tuple[int, ...]
    ) -> None:
        """Several images, prompts and options at once, padded at the end."""
        method, prompts = case.method, (0, 1)
        assert isinstance(method, Nested)
        images = [case.image(kind, tokens, seed) for seed, tokens in enumerate(lengths)]
        asked = [
            [case.image(kind, tokens, 10 * seed + prompt).relevance for prompt in prompts]
            for seed, tokens in enumerate(lengths)
        ]
        table = _padded([torch.stack([row for row in rows if row is not None]) for rows in asked])
        batch = _batch(images, table)
        for k in (8, max(lengths)):
            order = method.order_many(batch, case.options, k)
            shape = (len(images), len(prompts), len(case.options), min(k, max(lengths)))
            assert order.shape == shape
            assert order.dtype == torch.int64
            for i, image in enumerate(images):
                for prompt in prompts:
                    own = replace(image, relevance=asked[i][prompt])
                    for a, options in enumerate(case.options):
                        expected = method.select(own, k, options).indices.tolist()
                        expected += [-1] * (shape[-1] - len(expected))
                        assert order[i, prompt, a].tolist() == expected, (i, prompt, options)

    def test_a_batch_without_relevance(self, case: MethodCase) -> None:
        """Options that need none are served without it, as one prompt."""
        method = case.method
        assert isinstance(method, Nested)
        free = [each for each in case.options if "relevance" not in method.needs(each)]
        if not free:
            return
        images = [case.image(seed=seed) for seed in (0, 1)]
        order = method.order_many(_batch(images, None), free, 8)
        assert order.shape == (2, 1, len(free), 8)
        for i, image in enumerate(images):
            for a, options in enumerate(free):
                expected = method.select(replace(image, relevance=None), 8, options).indices
                assert torch.equal(order[i, 0, a], expected), (i, options)


class MergingConformance:
    """What methods that replace features claim."""

    def test_features_are_replaced(self, case: MethodCase) -> None:
        """Some budget changes a kept token's feature, under the defaults."""
        image, options = case.image(), case.method.options()
        found = [case.method.select(image, k, options) for k in range(1, TOKENS)]
        assert any(
            each.features is not None and not torch.equal(each.features, image.tokens[each.indices])
            for each in found
        ), "no feature is ever replaced"

    def test_keeping_all_replaces_none(self, case: MethodCase) -> None:
        """With every token kept there is nothing to merge."""
        image = case.image()
        for options in case.options:
            found = case.method.select(image, TOKENS, options)
            if found.features is not None:
                assert torch.equal(found.features, image.tokens[found.indices])


def _batch(images: Sequence[Inputs], relevance: Tensor | None) -> Batch:
    return Batch(
        tokens=_padded([image.tokens.T for image in images]).transpose(1, 2),
        lengths=torch.tensor([len(image.tokens) for image in images]),
        relevance=relevance,
        signals={
            name: _padded([image.signals[name] for image in images]) for name in images[0].signals
        },
    )


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Pad the last dimension with zeros, and stack."""
    longest = max(row.shape[-1] for row in rows)
    pad = torch.nn.functional.pad
    return torch.stack([pad(row, (0, longest - row.shape[-1])) for row in rows])
