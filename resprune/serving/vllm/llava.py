"""LLaVA-1.5 in vLLM."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

from torch import Tensor
from vllm.model_executor.models.llava import LlavaForConditionalGeneration, LlavaMultiModalProcessor
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from resprune.backbones import VisualTokens
from resprune.backbones._signals import cls_scores
from resprune.backbones._towers import received_scores
from resprune.serving.vllm.attention import QueriesAndKeys, over_ranks
from resprune.serving.vllm.model import Encoded, PrunedModel
from resprune.serving.vllm.processor import PrunedProcessor
from resprune.serving.vllm.settings import named

# transformers 5 saves a tower one level higher than checkpoints on the hub have it
TOWER_NAMES = WeightsMapper(
    orig_to_new_prefix={
        f"vision_tower.{part}.": f"vision_tower.vision_model.{part}."
        for part in ("embeddings", "encoder", "pre_layrnorm", "post_layernorm", "head")
    }
)


class PrunedLlavaProcessor(PrunedProcessor, LlavaMultiModalProcessor):
    """LLaVA-1.5's processor."""

    architecture = "LlavaForConditionalGeneration"

    def _image_token_id(self, hf_config: Any) -> int:
        return int(hf_config.image_token_index)


def _processor(info: Any, dummy_inputs: Any) -> Any:
    """Make the pruning processor where a config is named, else vLLM's own."""
    if named(info.get_hf_config()):
        return PrunedLlavaProcessor(info, dummy_inputs)
    return LlavaForConditionalGeneration._processor_factory.processor(info, dummy_inputs)


@MULTIMODAL_REGISTRY.register_processor(
    _processor,
    info=LlavaForConditionalGeneration._processor_factory.info,
    dummy_inputs=LlavaForConditionalGeneration._processor_factory.dummy_inputs,
)
class PrunedLlava(PrunedModel, LlavaForConditionalGeneration):
    """LLaVA-1.5 that keeps some of each image's tokens."""

    own = LlavaForConditionalGeneration
    architecture = "LlavaForConditionalGeneration"
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
        recorder = TowerAttention(self.vision_tower, signals)
        with recorder:
            features = LlavaForConditionalGeneration.embed_multimodal(self, **inputs)
        found = recorder.signals()
        side = self._side
        return [
            Encoded(
                VisualTokens(rows, {name: each[i] for name, each in found.items()}, (side,) * 2),
                rows,
            )
            for i, rows in enumerate(features)
        ]


class TowerAttention:
    """Context manager that records the signal of a CLIP or SigLIP tower of vLLM.

    vLLM builds such a tower up to the layer that features are taken from, so that it is the last.

    Args:
        tower: The tower.
        signals: The signal's name, or nothing.
    """

    def __init__(self, tower: Any, signals: Collection[str]) -> None:
        self._attention = tower.vision_model.encoder.layers[-1].self_attn
        self._name = next(iter(signals), None)
        self._cls = self._name == "cls_attention"
        self._recorder = QueriesAndKeys(self._attention.attn, cls=self._cls)
        self._context: Any = nullcontext() if self._name is None else self._recorder

    def __enter__(self) -> None:
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def signals(self) -> dict[str, Tensor]:
        """Return the signal of each view by its name, shape (views, T); nothing where none is."""
        if self._name is None:
            return {}
        attention = self._attention
        query, key = self._recorder.taken(0)
        scores = cls_scores if self._cls else received_scores
        found = scores(query, key, attention.num_heads_per_partition, attention.scale)
        return {self._name: over_ranks(found, attention.tp_size)}
