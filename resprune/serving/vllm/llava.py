"""LLaVA-1.5 in vLLM."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava import LlavaForConditionalGeneration, LlavaMultiModalProcessor
from vllm.model_executor.models.utils import WeightsMapper

from resprune.backbones import VisualTokens
from resprune.backbones._signals import cls_scores
from resprune.backbones._towers import received_scores
from resprune.serving.vllm.attention import QueriesAndKeys, over_ranks, recording
from resprune.serving.vllm.model import Encoded, PrunedModel, stands_for
from resprune.serving.vllm.processor import PrunedProcessor

# transformers 5 saves a tower one level higher than checkpoints on the hub have it
TOWER_NAMES = WeightsMapper(
    orig_to_new_prefix={
        f"vision_tower.{part}.": f"vision_tower.vision_model.{part}."
        for part in ("embeddings", "encoder", "pre_layrnorm", "post_layernorm", "head")
    }
)


class PrunedLlavaProcessor(PrunedProcessor, LlavaMultiModalProcessor):
    """LLaVA-1.5's processor."""


@stands_for(LlavaForConditionalGeneration, PrunedLlavaProcessor)
class PrunedLlava(PrunedModel, LlavaForConditionalGeneration):
    """LLaVA-1.5 that keeps some of each image's tokens."""

    hf_to_vllm_mapper = LlavaForConditionalGeneration.hf_to_vllm_mapper | TOWER_NAMES

    def counts(self, inputs: dict[str, Any]) -> list[int]:
        """Return the cells of each view."""
        return [self._side**2] * len(inputs["pixel_values"])

    @property
    def _side(self) -> int:
        vision = self.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def encode(self, inputs: dict[str, Any], signals: Collection[str]) -> list[Encoded]:
        """Run the tower and the projector once."""
        with recording(attention_of(self.vision_tower).attn, signals) as seen:
            features = LlavaForConditionalGeneration.embed_multimodal(self, **inputs)
        found = tower_signals(attention_of(self.vision_tower), seen, signals)
        side = self._side
        return [
            Encoded(
                VisualTokens(rows, {name: each[i] for name, each in found.items()}, (side,) * 2),
                rows,
            )
            for i, rows in enumerate(features)
        ]


def attention_of(tower: Any) -> Any:
    """Return the attention of the layer that a CLIP or SigLIP tower's features are taken from.

    vLLM builds such a tower up to that layer, so that it is the last.
    """
    return tower.vision_model.encoder.layers[-1].self_attn


def tower_signals(
    attention: Any, seen: QueriesAndKeys, signals: Collection[str]
) -> dict[str, Tensor]:
    """Return the signal of each view by its name, shape (views, T); nothing where none is asked.

    Args:
        attention: What ``attention_of`` gives.
        seen: What was recorded in it.
        signals: The signal's name, or nothing.
    """
    found = {}
    for name in signals:  # a tower gives one
        scores = cls_scores if name == "cls_attention" else received_scores
        heads = attention.num_heads_per_partition
        own = scores(*seen.taken(0), heads, attention.scale)
        found[name] = over_ranks(own, attention.tp_size)
    return found
