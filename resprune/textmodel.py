"""The text side of the CLIP model whose image side is a backbone's vision tower."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from resprune.backbones import Backbone
from resprune.errors import UnsupportedModelError


class TextModel:
    """Embeds an image's tokens and a question in the space that CLIP was trained to share.

    As CDPruner has it: a token's embedding is CLIP's visual projection of its state in the layer
    that the backbone takes its features from, under the tower's last norm; a question is cut into
    pieces of the text model's length, the last one padded, and each piece has an embedding.

    Args:
        source: Folder or hub id of the CLIP checkpoint, such as
            ``openai/clip-vit-large-patch14-336`` for LLaVA-1.5.
        backbone: The model.

    Raises:
        UnsupportedModelError: Not a CLIP checkpoint, or one of another tower than the model's.

    Source: CDPruner, arXiv 2506.10967.
    """

    def __init__(self, source: str, backbone: Backbone) -> None:
        import transformers

        library: Any = transformers
        self.source = source
        if backbone.family != "llava" or "cls_attention" not in backbone.seed_signals:
            raise UnsupportedModelError(
                f"text_model: {source!r} goes with the CLIP tower of LLaVA-1.5 alone, and this is "
                f"{backbone.family} ({', '.join(backbone.seed_signals)}); leave text_model out"
            )
        try:
            kind = library.AutoConfig.from_pretrained(source).model_type
            if kind != "clip":
                raise ValueError(f"its model_type is {kind!r}")
            clip = library.CLIPModel.from_pretrained(source).eval()
            self._tokenizer = library.AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, KeyError) as error:
            raise UnsupportedModelError(
                f"text_model: {source!r} cannot be loaded as CLIP "
                f"({type(error).__name__}: {str(error).strip().splitlines()[0]}); give the folder "
                "or hub id of the CLIP checkpoint that the vision tower is from"
            ) from error
        width = int(backbone.model.config.vision_config.hidden_size)
        if clip.visual_projection.in_features != width:
            raise UnsupportedModelError(
                f"text_model: {source!r} projects image states of width "
                f"{clip.visual_projection.in_features} and the vision tower's have {width}; give "
                "the CLIP checkpoint that the tower is from"
            )
        clip.to(backbone.model.device)
        self._projection, self._text = clip.visual_projection, clip.text_model
        self._text_projection = clip.text_projection
        vision = backbone.model.base_model.vision_tower
        self._norm = getattr(vision, "vision_model", vision).post_layernorm
        self._layer = backbone.feature_layer()

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Collect, of a pass of the tower run within, embeddings of tokens: (images, T, c)."""
        found: list[Tensor] = []

        def after(_: Any, args: Any, output: Any) -> None:
            states = output if isinstance(output, Tensor) else output[0]
            found.append(self._projection(self._norm(states[:, 1:]).float()))

        hook = self._layer.register_forward_hook(after)
        try:
            yield found
        finally:
            hook.remove()

    @torch.no_grad()
    def embed(self, text: str) -> Tensor:
        """Embed a question: one row a piece, shape (L, c), float32."""
        ids = self._tokenizer(text, return_tensors="pt")["input_ids"][0]
        length = int(self._text.config.max_position_embeddings)
        pieces = -(-len(ids) // length)
        padded = torch.zeros(pieces * length, dtype=torch.int64)
        mask = torch.zeros_like(padded)
        padded[: len(ids)], mask[: len(ids)] = ids, 1
        device = self._projection.weight.device
        output = self._text(
            input_ids=padded.view(pieces, length).to(device),
            attention_mask=mask.view(pieces, length).to(device),
        )
        embeds: Tensor = self._text_projection(output.pooler_output).float()
        return embeds
