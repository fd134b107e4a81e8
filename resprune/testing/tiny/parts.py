"""What the tiny models share: a tokenizer and weights that tell inputs apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

CORPUS = (
    "USER: What color is the small dog on the left of the table? ASSISTANT: brown",
    "How many people are in the picture? Is there a fire hydrant? What digit is on the circle?",
    "Answer the question using a single word or phrase. Describe the image. yes no one two three",
)


def byte_level_bpe(special: Sequence[str], vocabulary: int, *, lower: bool = False) -> Any:
    """Train a byte-level BPE tokenizer on a few sentences.

    Args:
        special: Special tokens, which get the first ids.
        vocabulary: At most this many tokens.
        lower: Lower-case all text.

    Returns:
        A ``tokenizers.Tokenizer``.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def enlarge_weights(model: nn.Module, std: float = 0.25) -> None:
    """Redraw the matrices so that attention and logits are far from uniform.

    With the library's initial 0.02 a tiny model gives nearly the same logits whatever it sees,
    and a test that compares them could not fail.

    Args:
        model: Changed in place.
        std: Standard deviation of the new values.
    """
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim >= 2:
                value.normal_(0.0, std)
