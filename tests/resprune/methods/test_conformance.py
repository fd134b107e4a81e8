"""Every shipped method that acts on tokens passes the suites of what it claims."""

from __future__ import annotations

import pytest

from resprune import methods
from resprune.methods import Nested
from resprune.testing.methods import (
    BatchedConformance,
    MergingConformance,
    MethodCase,
    MethodConformance,
    NestedConformance,
)

SHIPPED = [
    name
    for name in methods.names("tokens")
    if type(methods.get(name)).__module__.startswith("resprune.methods.")
]
MERGING = ("pool", "visionzip")


def cases(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "case", [MethodCase(methods.get(name)) for name in names], ids=names
    )


@cases(*SHIPPED)
class TestMethods(MethodConformance):
    pass


@cases(*[name for name in SHIPPED if methods.get(name).nested])
class TestNested(NestedConformance):
    pass


@cases(*[name for name in SHIPPED if isinstance(methods.get(name), Nested)])
class TestBatched(BatchedConformance):
    pass


@cases(*MERGING)
class TestMerging(MergingConformance):
    pass


@pytest.mark.parametrize("name", set(SHIPPED) - set(MERGING))
def test_the_others_merge_nothing(name: str) -> None:
    case = MethodCase(methods.get(name))
    for options in case.options:
        assert case.method.select(case.image(), 8, options).features is None


def test_the_rivals_that_choose_before_the_llm_are_here() -> None:
    assert set(SHIPPED) >= {
        *("resprune", "random", "l2_norm", "cls_attention", "relevance", "divprune", "cdpruner"),
        *("scope", "visionzip", "vispruner", "holov", "uniform", "pool"),
    }
    assert methods.names("none") == ["unpruned"]
    assert methods.names("image") == ["downsample"]
