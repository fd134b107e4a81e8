"""Keep the tokens that CLS attends to (FasterVLM, arXiv 2412.01818 v1)."""

from __future__ import annotations

from resprune.methods._common import attention_of, top
from resprune.methods.base import MethodOptions, Selection, SelectionInput, budget_of, register


@register
class ClsAttention:
    """Rank by the vision tower's CLS attention, averaged over heads.

    Source: FasterVLM, the first version of arXiv 2412.01818. Received attention stands in for
    towers without a CLS token.
    """

    name = "cls_attention"
    nested = True
    needs = frozenset({"cls_attention"})

    def select(self, inputs: SelectionInput, k: int, options: MethodOptions) -> Selection:
        """Order by falling attention."""
        budget_of(inputs, k)
        return top(inputs, attention_of(inputs, self.name), k)
