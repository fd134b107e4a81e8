"""Load a processor, also where torchvision is missing.

    from resprune.processors import load_processor

    processor = load_processor("Qwen/Qwen2.5-VL-7B-Instruct")

Qwen's processors, and those of LLaVA-OneVision, InternVL and SmolVLM, want torchvision for videos
alone. Without it they are loaded for images only, and a warning says so.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

from resprune.errors import UnsupportedModelError

_BY_MODEL_TYPE = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
    "llava_onevision": "LlavaOnevisionProcessor",
    "internvl": "InternVLProcessor",
    "smolvlm": "SmolVLMProcessor",
}
IMAGES_ONLY = tuple(_BY_MODEL_TYPE.values())
"""Names of the processors that can be loaded for images only."""


def load_processor(source: str, **options: Any) -> Any:
    """Load a model's processor; where its video part cannot be loaded, without it.

    Args:
        source: A folder or a hub id.
        **options: For ``AutoProcessor.from_pretrained``, such as ``revision``.

    Returns:
        The processor.

    Raises:
        ImportError: It needs a package that is missing, and has no form for images only.
        OSError: There is no processor at ``source``.
    """
    import transformers

    auto: Any = transformers.AutoProcessor
    try:
        return auto.from_pretrained(source, **options)
    except (ImportError, OSError, ValueError) as error:
        # an images-only processor that was saved has no video part to load, torchvision or not
        if not isinstance(error, ImportError) and "video" not in str(error).lower():
            raise
        name = _class_name(source, options)
        if name not in IMAGES_ONLY:
            raise
        reason = str(error).strip().splitlines()[0]
    processor = images_only(name).from_pretrained(source, **options)
    warnings.warn(
        f"{name} of {source} is loaded for images only: {reason} Install torchvision for videos.",
        stacklevel=2,
    )
    return processor


@functools.cache
def images_only(name: str) -> Any:
    """Make a processor class that takes no video processor, and so no torchvision.

    Args:
        name: One of ``IMAGES_ONLY``.

    Returns:
        A subclass of the class of that name, which it keeps, so that what it saves is read by
        transformers where torchvision is at hand. Its arguments are ``image_processor``,
        ``tokenizer`` and ``chat_template``.

    Raises:
        UnsupportedModelError: Another name.
    """
    if name not in IMAGES_ONLY:
        raise UnsupportedModelError(
            f"{name} has no form for images only; those that have: {', '.join(IMAGES_ONLY)}"
        )
    import transformers
    from transformers.processing_utils import ProcessorMixin

    base: Any = ProcessorMixin
    parent = getattr(transformers, name)
    if name == "SmolVLMProcessor":
        return _smolvlm_images_only(parent)
    if not name.startswith("Qwen"):
        return _without_videos(parent)

    def init(
        self: Any, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        for kind in ("image", "video"):
            token = getattr(tokenizer, f"{kind}_token", None) or f"<|{kind}_pad|>"
            setattr(self, f"{kind}_token", token)
            setattr(self, f"{kind}_token_id", tokenizer.convert_tokens_to_ids(token))
        for edge in ("start", "end"):
            token = getattr(tokenizer, f"vision_{edge}_token", None) or f"<|vision_{edge}|>"
            setattr(self, f"vision_{edge}_token", token)
            setattr(self, f"vision_{edge}_token_id", tokenizer.convert_tokens_to_ids(token))
        base.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return type(name, (parent,), {"__init__": init})


def _without_videos(parent: Any) -> Any:
    """Let a processor class set itself up as ever, its video processor left out on the way."""
    from transformers.processing_utils import ProcessorMixin

    base: Any = ProcessorMixin

    class NoVideos(base):  # type: ignore[misc]
        def __init__(
            self, image_processor: Any, tokenizer: Any, video_processor: Any = None, **options: Any
        ) -> None:
            base.__init__(self, image_processor, tokenizer, **options)

    # transformers reads the argument names off the function, to know which saved values to pass
    def init_onevision(
        self: Any,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: Any = None,
        vision_feature_select_strategy: Any = None,
        chat_template: Any = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        vision_aspect_ratio: str = "anyres_max_9",
    ) -> None:
        parent.__init__(
            self,
            image_processor,
            tokenizer,
            num_image_tokens=num_image_tokens,
            vision_feature_select_strategy=vision_feature_select_strategy,
            chat_template=chat_template,
            image_token=image_token,
            video_token=video_token,
            vision_aspect_ratio=vision_aspect_ratio,
        )

    def init_internvl(
        self: Any,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: Any = None,
    ) -> None:
        parent.__init__(
            self,
            image_processor,
            tokenizer,
            image_seq_length=image_seq_length,
            chat_template=chat_template,
        )

    init = init_internvl if parent.__name__ == "InternVLProcessor" else init_onevision
    return type(parent.__name__, (parent, NoVideos), {"__init__": init})


def _smolvlm_images_only(parent: Any) -> Any:
    """SmolVLM's also wants num2words, for videos alone."""
    from transformers.processing_utils import ProcessorMixin

    base: Any = ProcessorMixin
    tokens = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "global_image_token": "<global-img>",
        "video_token": "<video>",
    }

    def init(
        self: Any,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_len: int = 169,
        chat_template: Any = None,
    ) -> None:
        for name, token in tokens.items():
            setattr(self, name, getattr(tokenizer, name, None) or token)
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.image_seq_len = image_seq_len
        base.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    members = {"__init__": init, "apply_chat_template": base.apply_chat_template}
    return type(parent.__name__, (parent,), members)


def _class_name(source: str, options: dict[str, Any]) -> str | None:
    """The class that a processor was saved as, else the one of its model."""
    from transformers import AutoConfig
    from transformers.processing_utils import ProcessorMixin

    saved, _ = ProcessorMixin.get_processor_dict(source, **options)
    if saved.get("processor_class"):
        return str(saved["processor_class"])
    try:
        return _BY_MODEL_TYPE.get(AutoConfig.from_pretrained(source, **options).model_type)
    except (OSError, ValueError):
        return None
