"""Keep the tokens most relevant to the prompt; the relevance-only ablation of ResPrune."""

from __future__ import annotations

from resprune.methods._common import top
from resprune.methods.base import (
    MethodOptions,
    Selection,
    SelectionInput,
    budget_of,
    needed,
    register,
)


@register
class Relevance:
    """Rank by relevance, whatever is already kept.

    Source: the ablation of ResPrune, arXiv 2603.21105.
    """

    name = "relevance"
    nested = True
    needs = frozenset({"relevance"})

    def select(self, inputs: SelectionInput, k: int, options: MethodOptions) -> Selection:
        """Order by falling relevance."""
        budget_of(inputs, k)
        return top(inputs, needed(inputs, "relevance", self.name), k)
