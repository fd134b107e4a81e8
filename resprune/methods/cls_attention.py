"""Keep the tokens that CLS attends to (FasterVLM, arXiv 2412.01818 v1)."""

from __future__ import annotations

from resprune.methods._common import top
from resprune.methods.base import ATTENTION, Inputs, Method, Selection, budget_of, needed, register
from resprune.options import Options


class ClsAttentionOptions(Options):
    """It has none."""


@register
class ClsAttention(Method[ClsAttentionOptions]):
    """Rank by the vision tower's CLS attention, averaged over heads.

    Source: FasterVLM, the first version of arXiv 2412.01818. Received attention stands in for
    towers without a CLS token.
    """

    name = "cls_attention"
    options = ClsAttentionOptions
    nested = True

    def needs(self, options: ClsAttentionOptions) -> frozenset[str]:
        """Attention."""
        return frozenset({ATTENTION})

    def select(self, image: Inputs, k: int, options: ClsAttentionOptions) -> Selection:
        """Order by falling attention."""
        budget_of(image, k)
        return top(image, needed(image, ATTENTION, self.name), k)
