"""Which models, positions and calls of ``generate`` go with pruning inside the LLM."""

from __future__ import annotations

from typing import Any

from resprune import methods
from resprune.backbones import Backbone
from resprune.errors import ConfigError, ResPruneError, UnsupportedModelError
from resprune.methods.layers import LayerMethod
from resprune.options import Options, Positions
from resprune.setting import Setting

_PARTS = ("layers", "norm", "rotary_emb")
_LAYER_PARTS = ("input_layernorm", "self_attn")
_PROJECTIONS = ("q_proj", "k_proj", "head_dim", "scaling")
_CACHES = (None, "dynamic", "dynamic_full")
_ABSENT = ("prefill_chunk_size", "assistant_model", "prompt_lookup_num_tokens", "custom_generate")


def decoder_of(backbone: Backbone) -> Any:
    """Return the decoder of a model, with its layers.

    Args:
        backbone: The model.

    Raises:
        UnsupportedModelError: It is not built like that of LLaMA, Qwen2, Qwen3 or Gemma 3.
    """
    text = backbone.model.get_decoder()
    missing = [name for name in _PARTS if not hasattr(text, name)]
    if not missing:
        layer = text.layers[0]
        missing = [f"layers[0].{name}" for name in _LAYER_PARTS if not hasattr(layer, name)]
        attention = getattr(layer, "self_attn", None)
        missing += [f"self_attn.{name}" for name in _PROJECTIONS if not hasattr(attention, name)]
    if missing:
        raise UnsupportedModelError(
            f"{type(text).__name__} has no {missing[0]}, and methods inside the LLM need decoders "
            "built like LLaMA's; use a method before the LLM"
        )
    return text


def compact_inside(backbone: Backbone) -> bool:
    """Say whether positions may be renumbered inside the LLM.

    Not with M-RoPE, nor where layers have rotary embeddings of their own (Gemma 3).
    """
    rotary = decoder_of(backbone).rotary_emb
    return backbone.position_axes == "1-D" and hasattr(rotary, "inv_freq")


def check_inside(setting: Setting, backbone: Backbone) -> None:
    """Check that what a setting does inside the LLM can be done on a model.

    Args:
        setting: The setting; one that does nothing there passes.
        backbone: The model.

    Raises:
        UnsupportedModelError: The decoder, or its placement on several devices.
        ConfigError: Positions, or layers.
    """
    later = setting.inside
    if later is None:
        return
    check_positions(later.method, setting.positions, backbone)
    tokens = backbone.visual_tokens
    if tokens is not None:
        entering = tokens if setting.later is None else setting.budget.limit(tokens)
        left = min(later.budget.limit(tokens), entering)
        schedule(later.method, later.options, backbone, entering, left)


def check_positions(method: str, positions: Positions, backbone: Backbone) -> None:
    """Check a model and a position policy; see ``check_inside``."""
    decoder_of(backbone)
    if len(set((getattr(backbone.model, "hf_device_map", None) or {}).values())) > 1:
        raise UnsupportedModelError(
            f"the method {method!r} acts inside the LLM, which lies on several devices here "
            "(hf_device_map); load the model on one"
        )
    if positions == "compact" and not compact_inside(backbone):
        raise ConfigError(
            f"positions: inside the LLM of {backbone.family} positions cannot be renumbered, and "
            f"{method!r} acts there; use positions = 'keep'"
        )


def schedule(
    method: str, options: Options, backbone: Backbone, tokens: int, count: int
) -> dict[int, int]:
    """Return how many visual tokens a method leaves, by the layer before which the others drop.

    Args:
        method: Name of a method inside the LLM.
        options: Its options.
        backbone: The model.
        tokens: Visual tokens that enter the LLM.
        count: Those left in the end.

    Raises:
        ConfigError: It cannot leave as many on this decoder, or drops where a layer adds features
            of the vision tower (DeepStack).
    """
    found = methods.get(method)
    assert isinstance(found, LayerMethod)
    depth = len(decoder_of(backbone).layers)
    try:
        counts = dict(found.schedule(options, depth, tokens, count))
    except ResPruneError as error:
        raise ConfigError(f"method {method!r} on {backbone.family}: {error}") from None
    vision = getattr(backbone.model.config, "vision_config", None)
    deep = len(getattr(vision, "deepstack_visual_indexes", None) or ())
    if counts and min(counts) < max(1, deep):
        raise ConfigError(
            f"method {method!r} drops before layer {min(counts)} of {backbone.family}, where "
            f"features of the vision tower are added up to layer {deep - 1}; choose a later layer "
            f"in its options, {max(1, deep)} or higher"
        )
    return counts


def check_generate(config: Any, kwargs: dict[str, Any]) -> None:
    """Check what ``generate`` is told; hooks see it too late.

    Args:
        config: The generation config that will be used.
        kwargs: Keyword arguments of ``generate``.

    Raises:
        ResPruneError: An option that does not go with pruning inside the LLM.
    """
    allowed = {"use_cache": (None, True), "cache_implementation": _CACHES}
    allowed |= dict.fromkeys(_ABSENT, (None,))
    for name, fine in allowed.items():
        value = kwargs.get(name, getattr(config, name, None))
        if value not in fine:
            raise ResPruneError(
                f"{name}={value!r} does not go with pruning inside the LLM; leave it out, or use a "
                "method before the LLM"
            )


def check_window(layer: Any, index: int, tokens: int) -> None:
    """Check that a layer sees the whole prompt.

    Raises:
        ResPruneError: The tokens exceed its sliding window.
    """
    window = getattr(layer.self_attn, "sliding_window", None)
    if window is not None and tokens > window:
        raise ResPruneError(
            f"{tokens} tokens exceed the sliding window of {window} of decoder layer {index}, "
            "which pruning inside the LLM cannot follow; use a method before the LLM"
        )
