"""The processor of a served model: fewer placeholders, and the question as a field of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from resprune.errors import ResPruneError
from resprune.serving.vllm.asking import Asking, kept_placeholders
from resprune.serving.vllm.metrics import count
from resprune.serving.vllm.settings import checked_config
from resprune.serving.vllm.wire import ASKED, BUDGET, CHOSEN, POLICY, pack_question, short
from resprune.serving.vllm.wire import without_own as theirs

_MODALITY = "image"
PROCESSOR_SEAM = (
    "apply",
    "get_dummy_inputs",
    "_call_hf_processor",
    "_postprocess_hf_mm_data",
    "_get_mm_fields_config",
    "_get_prompt_updates",
)
"""Methods of vLLM's processors that ``PrunedProcessor`` replaces."""


class PrunedProcessor:
    """Stands before vLLM's own processor of a family; a subclass names the family's.

    vLLM calls ``PROCESSOR_SEAM`` by name; most of it is private to vLLM.

    Attributes:
        architecture: The model's class in vLLM's registry.
        image_input: Input of the model that has one entry an image.
    """

    architecture: str
    image_input = "pixel_values"

    def __init__(self, info: Any, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)  # type: ignore[call-arg]
        self.info = info
        hf_config = info.get_hf_config()
        config = checked_config(hf_config, self.architecture)
        self.asking = Asking(config, info.get_hf_processor(), hf_config.image_token_id)
        # the widest item that a request may have is what vLLM makes room for
        self._widest = max(config.table, key=lambda policy: policy.budget.limit(1 << 20))

    def visual_tokens(self, placeholders: int, item: int, items: Any) -> int:
        """Return the visual tokens T among an image's placeholders.

        Args:
            placeholders: The image's placeholders before pruning.
            item: Its place among the images.
            items: The images, as vLLM has them.
        """
        return placeholders

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Choose the request's policy, and put what it depends on where vLLM hashes it."""
        if _MODALITY not in inputs.mm_data_items:
            return super().apply(inputs, timing_ctx)  # type: ignore[misc]
        arguments = self.asking.arguments(inputs.hf_processor_mm_kwargs, inputs.prompt)
        inputs = replace(inputs, hf_processor_mm_kwargs=arguments)
        found = super().apply(inputs, timing_ctx)  # type: ignore[misc]
        count([placed.length for placed in found["mm_placeholders"][_MODALITY]])
        return found

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """Let vLLM make room for the widest budget of the table."""
        inputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        budget = {BUDGET: self._widest.budget}
        return replace(inputs, hf_processor_mm_kwargs={**inputs.hf_processor_mm_kwargs, **budget})

    def _call_hf_processor(self, hf_data: Any, hf_kwargs: Any) -> Any:
        return super()._call_hf_processor(hf_data, theirs(hf_kwargs))  # type: ignore[misc]

    def _postprocess_hf_mm_data(self, mm_inputs: Any, hf_kwargs: Any, data: Any) -> Any:
        data = super()._postprocess_hf_mm_data(mm_inputs, theirs(hf_kwargs), data)  # type: ignore[misc]
        if "image_embeds" in data:
            raise ResPruneError(
                "image_embeds are not pruned: what a selection reads of the vision tower is not "
                "among them; give the image"
            )
        images = self._images(data)
        if images:
            asked = pack_question(self.asking.question(hf_kwargs))
            data[ASKED] = [asked] * images
            data[CHOSEN] = torch.full((images,), short(hf_kwargs[POLICY]))
        return data

    def _images(self, data: Mapping[str, Any]) -> int:
        return len(data.get(self.image_input, ()))

    def _get_mm_fields_config(self, hf_inputs: Any, hf_kwargs: Any) -> Any:
        from vllm.multimodal.inputs import MultiModalFieldConfig

        fields = super()._get_mm_fields_config(hf_inputs, theirs(hf_kwargs))  # type: ignore[misc]
        ours = MultiModalFieldConfig.batched(_MODALITY, keep_on_cpu=True)
        return {**fields, ASKED: ours, CHOSEN: ours}

    def _get_prompt_updates(  # vLLM passes these by name
        self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any
    ) -> Sequence[Any]:
        updates = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items=mm_items,
            hf_processor_mm_kwargs=theirs(hf_processor_mm_kwargs),
            out_mm_kwargs=out_mm_kwargs,
        )

        def shortened(update: Any) -> Any:
            def kept(item: int) -> list[int]:
                policy = self.asking.policy(hf_processor_mm_kwargs)
                full = update.replacement(item)
                tokens = self.visual_tokens(len(full), item, mm_items)
                return list(full[: kept_placeholders(policy, tokens, len(full))])

            return replace(update, replacement=kept)

        return [shortened(update) if update.modality == _MODALITY else update for update in updates]
