"""A smaller image in place of pruning: the control of VTC-Bench (arXiv 2510.07143)."""

from __future__ import annotations

import math

from resprune.errors import ResPruneError
from resprune.methods.base import Inputs, Method, Selection, register
from resprune.options import Options


class DownsampleOptions(Options):
    """It has none."""


@register
class Downsample(Method[DownsampleOptions]):
    """Resize the image so that the tower gives about ``k`` tokens.

    It acts before the tower, so it keeps no tokens of its own; who runs it counts the tokens that
    the tower gave. A tower of fixed size gives the same number whatever the image.

    Source: VTC-Bench, arXiv 2510.07143.
    """

    name = "downsample"
    options = DownsampleOptions
    stage = "image"

    def select(self, image: Inputs, k: int, options: DownsampleOptions) -> Selection:
        """Refuse: there is nothing to select.

        Raises:
            ResPruneError: Always.
        """
        raise ResPruneError(
            "method 'downsample' replaces the image before the tower; studies run it. To prune "
            "encoded tokens use another, such as 'pool' or 'uniform'"
        )

    def resized(self, size: tuple[int, int], tokens: int, k: int) -> tuple[int, int]:
        """Return the size at which a tower that follows the image gives about ``k`` tokens.

        Args:
            size: Height and width of the image in pixels.
            tokens: Visual tokens T that it gives at this size.
            k: Count of tokens wanted.

        Returns:
            Height and width scaled by ``sqrt(k / T)``, a pixel at least and never enlarged.

        Raises:
            ResPruneError: A size, a T or a count below 1.
        """
        if min(*size, tokens, k) < 1:
            raise ResPruneError(
                f"downsample got an image of size {size} and {tokens} tokens for a budget of {k}; "
                "each must be at least 1"
            )
        scale = math.sqrt(min(1.0, k / tokens))
        height, width = (max(1, round(length * scale)) for length in size)
        return height, width
