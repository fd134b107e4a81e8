"""The families that are served, and what of a model's config decides whether it can be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from resprune.errors import UnsupportedModelError
from resprune.options import Positions

_CLS, _RECEIVED = "cls_attention", "received_attention"
_TOWERS = {"clip_vision_model": _CLS, "siglip_vision_model": _RECEIVED}
_VISION_ROPE_BASE = 10_000.0


class Family(ABC):
    """What is known of a family before its model is made.

    Attributes:
        name: As in ``PruningConfig.backbone.family``.
        architecture: Its class in vLLM's registry.
        own: The module of vLLM's own class.
        target: The class of this package that stands for it.
        positions: The position policy that its positions in vLLM can follow.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    own: ClassVar[str]
    target: ClassVar[str]
    positions: ClassVar[Positions] = "compact"

    @abstractmethod
    def signals(self, hf_config: Any) -> tuple[str, ...]:
        """Return the signals that the model's vision tower gives in vLLM.

        Raises:
            UnsupportedModelError: A model of the family that cannot be served, and why.
        """

    def visual_tokens(self, hf_config: Any) -> int | None:
        """Return the visual tokens T of an image where the model fixes it."""
        return None


class Llava(Family):
    """LLaVA-1.5."""

    name = "llava"
    architecture = "LlavaForConditionalGeneration"
    own = "vllm.model_executor.models.llava"
    target = "resprune.serving.vllm.llava:PrunedLlava"

    def signals(self, hf_config: Any) -> tuple[str, ...]:
        """Return the signal of CLIP or SigLIP."""
        tower = hf_config.vision_config.model_type
        if tower not in _TOWERS:
            raise UnsupportedModelError(
                f"resprune: {self.name} with a {tower!r} vision tower is not served; served "
                f"towers: {', '.join(_TOWERS)}"
            )
        return (_TOWERS[tower],)

    def visual_tokens(self, hf_config: Any) -> int:
        """Return the cells of the one view."""
        vision = hf_config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2


class LlavaNext(Llava):
    """LLaVA-NeXT: a base view, tiles and newline tokens."""

    name = "llava_next"
    architecture = "LlavaNextForConditionalGeneration"
    own = "vllm.model_executor.models.llava_next"
    target = "resprune.serving.vllm.llava_next:PrunedLlavaNext"

    def visual_tokens(self, hf_config: Any) -> None:  # type: ignore[override]
        """Return nothing: it varies by image."""


class Qwen25VL(Family):
    """Qwen2.5-VL, whose M-RoPE positions vLLM lets a model compute again once tokens are gone."""

    name = "qwen2_5_vl"
    architecture = "Qwen2_5_VLForConditionalGeneration"
    own = "vllm.model_executor.models.qwen2_5_vl"
    target = "resprune.serving.vllm.qwen2_5_vl:PrunedQwen25VL"
    positions = "keep"

    def signals(self, hf_config: Any) -> tuple[str, ...]:
        """Return the signal of the last block with full attention."""
        vision = hf_config.vision_config
        rope = getattr(vision, "rope_parameters", None) or {}
        base = float(rope.get("rope_theta", _VISION_ROPE_BASE))
        if base != _VISION_ROPE_BASE:
            raise UnsupportedModelError(
                f"resprune: {hf_config._name_or_path!r} has a vision tower with rotary base "
                f"{base:g} and vLLM computes every Qwen2.5-VL tower with {_VISION_ROPE_BASE:g}, so "
                "that its answers would be wrong, pruned or not; serve it with transformers and "
                "resprune.attach"
            )
        return (_RECEIVED,)


FAMILIES: dict[str, Family] = {
    family.architecture: family for family in (Llava(), LlavaNext(), Qwen25VL())
}
"""The served families by architecture."""
