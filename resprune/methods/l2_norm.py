"""Keep the longest tokens."""

from __future__ import annotations

from resprune.methods._common import top
from resprune.methods.base import MethodOptions, Selection, SelectionInput, budget_of, register


@register
class L2Norm:
    """Rank by the Euclidean norm; a control that looks at neither prompt nor other tokens."""

    name = "l2_norm"
    nested = True
    needs: frozenset[str] = frozenset()

    def select(self, inputs: SelectionInput, k: int, options: MethodOptions) -> Selection:
        """Order by falling norm."""
        budget_of(inputs, k)
        # Double precision: the squares of large float32 values overflow.
        return top(inputs, inputs.tokens.double().norm(dim=1), k)
