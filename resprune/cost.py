"""The cost of a setting: the visual tokens that each decoder layer runs on."""

from __future__ import annotations

from collections.abc import Mapping

from resprune import methods
from resprune.errors import ResPruneError
from resprune.methods.layers import LayerMethod
from resprune.options import Options
from resprune.setting import Setting


def tokens_by_layer(setting: Setting, tokens: int, depth: int) -> list[int]:
    """Return how many of an image's visual tokens each decoder layer runs on.

    Args:
        setting: The setting; of an energy budget the most that it keeps.
        tokens: Visual tokens T of the image.
        depth: Decoder layers L.

    Returns:
        L counts, which do not rise.

    Raises:
        ResPruneError: A stage inside the LLM that cannot leave its count on such a decoder.
    """
    stage = methods.get(setting.method).stage
    entering = tokens if stage == "layers" else setting.budget.limit(tokens)
    later = setting.inside
    if later is None:
        return [entering] * depth
    method = methods.get(later.method)
    assert isinstance(method, LayerMethod)
    left = min(later.budget.limit(tokens), entering)
    return _by_layer(method.schedule(later.options, depth, entering, left), entering, depth)


def _by_layer(schedule: Mapping[int, int], entering: int, depth: int) -> list[int]:
    counts = []
    for layer in range(depth):
        entering = schedule.get(layer, entering)
        counts.append(entering)
    return counts


def cost(setting: Setting, tokens: int, depth: int) -> float:
    """Return an image's visual tokens averaged over the decoder layers; see ``tokens_by_layer``."""
    return sum(tokens_by_layer(setting, tokens, depth)) / depth


def count_for_cost(method: str, options: Options, tokens: int, depth: int, mean: float) -> int:
    """Return the largest count of a method inside the LLM that costs no more than another setting.

    Every count is tried: where published counts stand beside others, a smaller one may cost more.

    Args:
        method: Name of a method inside the LLM.
        options: Its options.
        tokens: Visual tokens T that enter the LLM.
        depth: Decoder layers L.
        mean: Visual tokens averaged over the decoder layers, as ``cost`` gives them.

    Returns:
        The count k that is left in the end, 1 to T.

    Raises:
        ResPruneError: No method inside the LLM, none of its counts costs as little, or it cannot
            drop on such a decoder.
    """
    found = methods.get(method)
    if not isinstance(found, LayerMethod):
        raise ResPruneError(
            f"the method {method!r} does not act inside the LLM; give one of "
            f"{', '.join(methods.names('layers'))}"
        )
    least = float("inf")
    for k in range(tokens, 0, -1):
        own = sum(_by_layer(found.schedule(options, depth, tokens, k), tokens, depth)) / depth
        if own <= mean:
            return k
        least = min(least, own)
    raise ResPruneError(
        f"the method {method!r} runs {least:.6g} of {tokens} visual tokens a layer at the least on "
        f"a decoder of {depth} layers, and {mean:.6g} is asked; ask for more, or drop in an "
        "earlier layer where the method has that option"
    )
