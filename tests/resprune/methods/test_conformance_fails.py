"""Every check of the suites fails for a method that breaks what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import pytest
import torch
from pydantic import ConfigDict, Field

from resprune.errors import ResPruneError
from resprune.methods import Batch, Inputs, Nested, Selection
from resprune.methods._common import attention_of, top
from resprune.methods.base import ATTENTION, budget_of, needed
from resprune.options import Options, Search
from resprune.testing import methods as suites
from resprune.testing.methods import MethodCase


class Plain(Options):
    share: Annotated[float, Field(ge=0, le=1), Search(low=0.0, high=1.0)] = 0.5


class Sound(Nested[Plain]):
    """Ranks by relevance; what the broken ones break one thing of."""

    name = "sound"
    options = Plain
    need = frozenset({"relevance"})

    def needs(self, options: Plain) -> frozenset[str]:
        return self.need

    def score(self, image: Inputs) -> torch.Tensor:
        return needed(image, "relevance", self.name)

    def select(self, image: Inputs, k: int, options: Plain) -> Selection:
        budget_of(image, k)
        return top(image, self.score(image), k)

    def order_many(self, batch: Batch, options: Sequence[Plain], k: int) -> torch.Tensor:
        images, tokens, _ = batch.tokens.shape
        lengths = torch.full((images,), tokens) if batch.lengths is None else batch.lengths
        scores = torch.zeros(images, 1, tokens) if batch.relevance is None else batch.relevance
        past = torch.arange(tokens) >= lengths[:, None, None]
        order = scores.masked_fill(past, -1).argsort(dim=-1, descending=True, stable=True)
        order = torch.where(torch.arange(tokens) < lengths[:, None, None], order, -1)
        return order[:, :, None, :k].expand(-1, -1, len(options), -1)


def broken(**parts: Any) -> MethodCase:
    """A sound method with some parts replaced."""
    return MethodCase(type("Broken", (Sound,), parts)())


def after(change: Any) -> Any:
    """A ``select`` that changes what the sound one selects."""

    def select(self: Any, image: Inputs, k: int, options: Plain) -> Selection:
        return change(Sound.select(self, image, k, options), image)

    return select


def mutating(self: Any, image: Inputs, k: int, options: Plain) -> Selection:
    image.tokens.mul_(2)
    return Sound.select(self, image, k, options)


def unchecked(self: Any, image: Inputs, k: int, options: Plain) -> Selection:
    return Selection(image.relevance.argsort(descending=True)[:k])  # type: ignore[union-attr]


def native_precision(self: Any, image: Inputs, k: int, options: Plain) -> Selection:
    return top(image, image.tokens.softmax(dim=1).prod(dim=1), k)


def in_order(self: Any, image: Inputs, k: int, options: Plain) -> Selection:
    return Selection(Sound.select(self, image, k, options).indices.sort().values)


class Loose(Options):
    model_config = ConfigDict(extra="allow")


class Changeable(Plain):
    model_config = ConfigDict(frozen=False)


def features(change: Any) -> Any:
    """A ``select`` whose features are made from the kept tokens."""
    return after(lambda kept, image: Selection(kept.indices, change(image.tokens[kept.indices])))


MUTANTS: dict[str, list[MethodCase]] = {
    "test_it_says_what_it_is": [
        broken(name=""),
        broken(stage="image"),
        broken(nested=False),
        broken(needs=lambda self, options: {"relevance"}),
    ],
    "test_options_are_values": [broken(options=Changeable)],
    "test_foreign_options_are_refused": [broken(options=Loose)],
    "test_exactly_the_budget": [
        broken(select=after(lambda kept, image: Selection(kept.indices[:-1]))),
        broken(select=after(lambda kept, image: Selection(kept.indices * 0))),
        broken(select=after(lambda kept, image: Selection(kept.indices + 1))),
        broken(select=after(lambda kept, image: Selection(kept.indices.int()))),
        broken(select=features(lambda rows: rows[:, :-1])),
        broken(select=features(lambda rows: rows / rows.norm())),  # a zero token
        broken(select=features(lambda rows: rows.double())),
    ],
    "test_calls_repeat": [
        broken(
            select=lambda self, image, k, options: Selection(torch.randperm(len(image.tokens))[:k])
        ),
    ],
    "test_inputs_are_not_changed": [broken(select=mutating)],
    "test_needs_are_honest": [
        broken(need=frozenset()),
        broken(need=frozenset({"relevance", ATTENTION})),
        broken(
            need=frozenset(),
            select=lambda self, image, k, options: top(
                image, next(iter(image.signals.values()), image.tokens[:, 0]), k
            ),
        ),
    ],
    "test_received_attention_stands_in": [
        broken(
            need=frozenset({ATTENTION}), score=lambda self, image: image.signals["cls_attention"]
        ),
        broken(
            need=frozenset({ATTENTION}),
            score=lambda self, image: (
                attention_of(image, "sound") * (1 if "cls_attention" in image.signals else -1)
            ),
        ),
    ],
    "test_dtype_changes_nothing_but_rounding": [
        broken(select=native_precision),
        broken(select=features(lambda rows: rows * torch.finfo(rows.dtype).bits)),
    ],
    "test_bad_input_is_refused": [broken(select=unchecked)],
    "test_a_smaller_budget_is_a_prefix": [broken(select=in_order), broken(nested=False)],
    "test_weights_of_energy_budgets": [
        broken(weights=lambda self, image, options: -self.score(image)),
        broken(weights=lambda self, image, options: self.score(image)[1:]),
        broken(weights=lambda self, image, options: 1 / image.tokens.norm(dim=1)),
    ],
    "test_a_batch_equals_its_images": [
        broken(order_many=lambda *given: Sound.order_many(*given).flip(-1)),
        broken(order_many=lambda *given: Sound.order_many(*given).clamp_min(0)),  # past the end
        broken(
            order_many=lambda self, batch, options, k: Sound.order_many(
                self, replace(batch, relevance=batch.relevance[:, :1].expand(-1, 3, -1)), options, k
            )
        ),
    ],
    "test_a_batch_without_relevance": [
        broken(
            need=frozenset(),
            select=lambda self, image, k, options: top(image, image.tokens[:, 0], k),
        ),
    ],
    "test_features_are_replaced": [broken(), broken(select=features(lambda rows: rows))],
    "test_keeping_all_replaces_none": [broken(select=features(lambda rows: rows + 1))],
}
GIVEN: dict[str, list[tuple[Any, ...]]] = {
    "test_exactly_the_budget": [(kind,) for kind in suites.KINDS],
    "test_a_smaller_budget_is_a_prefix": [(kind,) for kind in suites.KINDS],
    "test_weights_of_energy_budgets": [(kind,) for kind in suites.KINDS],
    "test_a_batch_equals_its_images": [("random", lengths) for lengths in ((21, 21), (21, 5, 13))],
}


def checks() -> dict[str, Any]:
    found = {}
    for suite in vars(suites).values():
        if isinstance(suite, type) and suite.__name__.endswith("Conformance"):
            found |= {name: getattr(suite(), name) for name in vars(suite) if name[:5] == "test_"}
    return found


def passes(name: str, case: MethodCase) -> bool:
    """Whether a method passes one check under all that it is given."""
    try:
        for given in GIVEN.get(name, [()]):
            checks()[name](case, *given)
    except (AssertionError, KeyError, ResPruneError, pytest.fail.Exception):
        return False
    return True


def test_every_check_has_its_mutants() -> None:
    assert set(MUTANTS) == set(checks())


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name, cases in MUTANTS.items() for case in cases],
    ids=[f"{name}-{i}" for name, cases in MUTANTS.items() for i in range(len(cases))],
)
def test_a_broken_method_fails(name: str, case: MethodCase) -> None:
    assert not passes(name, case)


@pytest.mark.parametrize("name", set(MUTANTS) - {"test_features_are_replaced"})
def test_the_sound_method_passes(name: str) -> None:
    assert passes(name, MethodCase(Sound()))
    attending = broken(need=frozenset({ATTENTION}), score=lambda s, image: attention_of(image, ""))
    if not name.startswith("test_a_batch"):
        assert passes(name, attending)
