"""Conformance suite for backbones.

Point it at an adapter and a tiny model, and get pytest cases:

    class TestMine(BackboneConformance):
        @pytest.fixture(scope="class")
        def case(self) -> Case:
            return Case(model, processor, images)

What is expected is built by hand, by ``resprune.testing.oracle``.
"""

from __future__ import annotations

from resprune.testing.backbones.bad_input import BadInput
from resprune.testing.backbones.batches import Batches
from resprune.testing.backbones.cost import Cost
from resprune.testing.backbones.description import Description
from resprune.testing.backbones.full_budget import FullBudget
from resprune.testing.backbones.prompts import Prompts
from resprune.testing.backbones.pruned import Pruned
from resprune.testing.backbones.trace import NoTrace
from resprune.testing.case import Case

__all__ = ["BackboneConformance", "Case"]


class BackboneConformance(
    FullBudget, Pruned, Batches, Description, Prompts, Cost, NoTrace, BadInput
):
    """The suite; subclass it and give a ``case`` fixture."""
