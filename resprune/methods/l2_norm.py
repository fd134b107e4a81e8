"""Keep the longest tokens."""

from __future__ import annotations

from resprune.methods._common import top
from resprune.methods.base import Inputs, Method, Selection, budget_of, register
from resprune.options import Options


class L2NormOptions(Options):
    """It has none."""


@register
class L2Norm(Method[L2NormOptions]):
    """Rank by the Euclidean norm; a control that looks at neither prompt nor other tokens."""

    name = "l2_norm"
    options = L2NormOptions
    nested = True

    def select(self, image: Inputs, k: int, options: L2NormOptions) -> Selection:
        """Order by falling norm."""
        budget_of(image, k)
        # Double precision: the squares of large float32 values overflow.
        return top(image, image.tokens.double().norm(dim=1), k)
