"""The cost of a setting: the visual tokens that each decoder layer runs on."""

from __future__ import annotations

from resprune import methods
from resprune.methods.layers import LayerMethod
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
    schedule = method.schedule(later.options, depth, entering, left)
    counts = []
    for layer in range(depth):
        entering = schedule.get(layer, entering)
        counts.append(entering)
    return counts


def cost(setting: Setting, tokens: int, depth: int) -> float:
    """Return an image's visual tokens averaged over the decoder layers; see ``tokens_by_layer``."""
    return sum(tokens_by_layer(setting, tokens, depth)) / depth
