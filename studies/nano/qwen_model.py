"""nano-qwen2.5-vl's architecture and initialisation (about 1.1 million parameters).

One merged visual token covers the same 8 x 8 pixels as a patch of nano-llava (patches of 4 pixels,
2 x 2 merged), so that scenes, patch labels and stages carry over. The tower has no learned
positions: its heads look at their neighbours through the biases of queries and keys, whose product
under rotary positions depends on the offset between two patches alone.
"""

from __future__ import annotations

from typing import Any

import torch

from studies.nano.model import HEADS, WIDTH, compare_tokens
from studies.nano.qwen_processor import EOS, IMAGE, PAD, START, VIDEO, VISION, qwen_vocabulary

MERGE = 2
SMALL_PATCH = 4
TOWER_WIDTH = 64
TOWER_HEADS = 4
TOWER_DEPTH = 5
FULL_BLOCKS = (4,)
WINDOW = 56
"""Pixels: windows of 7 x 7 merged tokens."""
UNIT_WIDTH = MERGE**2 * TOWER_WIDTH
"""Channels of the four patches that a merged token is made of."""
THETA = 4.0
SECTIONS = [4, 6, 6]
_FAST = 4
REACH = 2
"""How far the heads look at first, in patches: one merged token."""
_SIDES, _CORNERS = ((1, 0), (-1, 0), (0, 1), (0, -1)), ((1, 1), (-1, 1), (1, -1), (-1, -1))


def build_qwen(seed: int) -> Any:
    """Build an untrained `Qwen2_5_VLForConditionalGeneration` with seeded weights."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = qwen_vocabulary()
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": TOWER_DEPTH,
            "hidden_size": TOWER_WIDTH,
            "intermediate_size": 2 * TOWER_WIDTH,
            "num_heads": TOWER_HEADS,
            "patch_size": SMALL_PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": WINDOW,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": list(FULL_BLOCKS),
            "rope_parameters": {"rope_type": "axial", "rope_theta": THETA},
        },
        text_config={
            "vocab_size": len(words),
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 4,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": SECTIONS,
            },
            "tie_word_embeddings": True,
            "pad_token_id": words.index(PAD),
            "bos_token_id": words.index(START),
            "eos_token_id": words.index(EOS),
        },
        image_token_id=words.index(IMAGE),
        video_token_id=words.index(VIDEO),
        vision_start_token_id=words.index(VISION[0]),
        vision_end_token_id=words.index(VISION[1]),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.tie_weights()
    generator = torch.Generator().manual_seed(seed + 5)
    _look_around(model.model.visual, generator)
    # Time and the fastest of the rows' frequencies would blur a comparison across distance.
    compare_tokens(model.model.language_model, generator, fast=_FAST)
    return model


def _look_around(tower: Any, generator: torch.Generator, focus: float = 7.0) -> None:
    """Scale the layers by their width, and let the heads' biases peak at a fixed offset."""
    rates = tower.rotary_pos_emb.inv_freq
    width = TOWER_WIDTH
    angles = len(rates) * 2
    with torch.no_grad():
        # Both frames of an image are the same picture.
        tower.patch_embed.proj.weight.normal_(
            0, 1.2 / (3 * 2 * SMALL_PATCH**2 * 2) ** 0.5, generator=generator
        )
        for index, block in enumerate(tower.blocks):
            qkv, bias = block.attn.qkv.weight, block.attn.qkv.bias
            qkv[: 2 * width].normal_(0, 0.3 / width**0.5, generator=generator)
            qkv[2 * width :].normal_(0, 1 / width**0.5, generator=generator)
            block.attn.proj.weight.normal_(0, 0.7 / width**0.5, generator=generator)
            block.mlp.gate_proj.weight.normal_(0, 1 / width**0.5, generator=generator)
            block.mlp.up_proj.weight.normal_(0, 1 / width**0.5, generator=generator)
            block.mlp.down_proj.weight.normal_(0, 0.7 / (2 * width) ** 0.5, generator=generator)
            for head, (across, down) in enumerate((_SIDES, _CORNERS)[index % 2]):
                turn = REACH * torch.cat([rates * down, rates * across])
                start = head * 2 * angles
                query = torch.cat([turn.cos(), turn.sin()])
                key = torch.cat([torch.ones(angles), torch.zeros(angles)])
                bias[start : start + 2 * angles] = focus**0.5 * query
                bias[width + start : width + start + 2 * angles] = focus**0.5 * key
        first, last = tower.merger.mlp[0], tower.merger.mlp[2]
        first.weight.normal_(0, 1 / UNIT_WIDTH**0.5, generator=generator)
        last.weight.normal_(0, 0.15 / UNIT_WIDTH**0.5, generator=generator)
