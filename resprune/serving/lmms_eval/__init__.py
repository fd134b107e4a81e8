"""ResPrune in lmms-eval: ``lmms-eval --model resprune --model_args pretrained=MODEL,config=DIR``.

lmms-eval finds ``manifest`` under the entry point ``lmms_eval.models``. Nothing of torch or
transformers is imported before the model is asked for.
"""

from __future__ import annotations

from typing import Any

MODEL_ID = "resprune"


def manifest() -> Any:
    """Tell lmms-eval of the model.

    There is a chat class alone: in lmms-eval a task without messages of its own gets them from its
    images and text, so every task that generates can be asked.

    Returns:
        A ``lmms_eval.models.registry_v2.ModelManifest``.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id=MODEL_ID, chat_class_path="resprune.serving.lmms_eval.model.ResPrune"
    )


__all__ = ["MODEL_ID", "manifest"]
