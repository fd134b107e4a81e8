"""nano-llava's architecture and initialisation (about 1.15 million parameters).

Two initialisations do what long pre-training does in a large model: the vision tower's heads start
by looking at neighbouring patches, and the language model's attention starts by comparing tokens
with themselves ('mimetic' initialisation, after Trockman & Kolter, arXiv 2305.09828). Without the
latter, binding a word to a visual token does not appear within the steps that are affordable here.
"""

from __future__ import annotations

from typing import Any

import torch

from studies.nano.processor import BOS, EOS, IMAGE, PAD, vocabulary
from studies.nano.scenes import GRID, IMAGE_SIZE, PATCH_SIZE, PATCHES

WIDTH = 128
HEADS = 4
HEAD_WIDTH = WIDTH // HEADS
POSITION_DIMS = 32
"""Leading channels of the vision tower that hold the patch position at the start."""


def build_model(seed: int) -> Any:
    """Build an untrained `LlavaForConditionalGeneration` with seeded weights."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    words = vocabulary()
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=WIDTH,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        pad_token_id=words.index(PAD),
        bos_token_id=words.index(BOS),
        eos_token_id=words.index(EOS),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=words.index(IMAGE),
        # The last layer, unlike LLaVA's -2: with three layers, none can be spared.
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=PATCHES,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.tie_weights()
    generator = torch.Generator().manual_seed(seed + 5)
    _look_at_neighbours(model.model.vision_tower, generator)
    compare_tokens(model.model.language_model, generator)
    return model


def _look_at_neighbours(tower: Any, generator: torch.Generator, logit: float = 4.0) -> None:
    """Sinusoidal positions, and query-key products that peak at a fixed offset per head."""
    rates = torch.linspace(0.2, 2.2, POSITION_DIMS // 4)
    steps = torch.arange(GRID).float()
    waves = torch.stack([torch.cos(steps[:, None] * rates), torch.sin(steps[:, None] * rates)], -1)
    waves = waves.reshape(GRID, POSITION_DIMS // 2)
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    positions = torch.zeros(PATCHES + 1, WIDTH)
    positions[1:, : POSITION_DIMS // 2] = waves[columns.reshape(-1)]
    positions[1:, POSITION_DIMS // 2 : POSITION_DIMS] = waves[rows.reshape(-1)]
    sides, corners = ((1, 0), (-1, 0), (0, 1), (0, -1)), ((1, 1), (-1, 1), (1, -1), (-1, -1))
    scale = (logit * HEAD_WIDTH**0.5 / 16) ** 0.5
    with torch.no_grad():
        noise = torch.randn(positions.shape, generator=generator) * 0.02
        tower.embeddings.position_embedding.weight.copy_(positions + noise)
        patches = tower.embeddings.patch_embedding.weight
        fan_in = 3 * PATCH_SIZE**2
        patches.normal_(0, 1.2 / fan_in**0.5, generator=generator)
        patches[:POSITION_DIMS] *= 0.1
        for layer, offsets in zip(tower.encoder.layers, (sides, sides, corners), strict=True):
            for head, (dx, dy) in enumerate(offsets):
                rows_of_head = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
                query = _turn(rates * dx, rates * dy)
                layer.self_attn.q_proj.weight[rows_of_head, :POSITION_DIMS] += scale * query
                key = torch.eye(HEAD_WIDTH)
                layer.self_attn.k_proj.weight[rows_of_head, :POSITION_DIMS] += scale * key


def _turn(across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Rotation (32, 32) that moves the sinusoids of a position by an offset."""
    blocks = [
        torch.tensor([[torch.cos(a), -torch.sin(a)], [torch.sin(a), torch.cos(a)]])
        for a in torch.cat([across, down])
    ]
    turned: torch.Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return turned


def compare_tokens(
    language_model: Any,
    generator: torch.Generator,
    sharpness: float = 1.7,
    copying: float = 0.4,
    fast: int = 6,
) -> None:
    """Add one orthogonal matrix to W_q and W_k, and Z, Z^T to W_v, W_o, above the first layer.

    The `fast` first rotary frequencies, which would blur a comparison across distance, are damped.
    """

    def orthogonal() -> torch.Tensor:
        basis: torch.Tensor = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
        return basis

    damping = torch.ones(HEADS, 2, HEAD_WIDTH // 2)
    damping[:, :, :fast] = 0.25
    with torch.no_grad():
        for layer in list(language_model.layers)[1:]:
            attention = layer.self_attn
            compare = sharpness * damping.reshape(-1, 1) * orthogonal()
            attention.q_proj.weight += compare
            attention.k_proj.weight += compare
            copy = copying**0.5 * orthogonal()
            attention.v_proj.weight += copy
            attention.o_proj.weight += copy.T
