"""nano-qwen2.5-vl's prompts: Qwen's template, and positions in three dimensions."""

from __future__ import annotations

from functools import lru_cache

import torch

from studies.nano.chat import Chat
from studies.nano.qwen_processor import EOS, IMAGE, build_qwen_processor
from studies.nano.scenes import GRID


class QwenChat(Chat):
    """Multimodal rotary positions as the model's own `get_rope_index` gives them.

    A text token has one position on the axes time, height and width. An image's tokens share their
    time and count rows and columns from there; the text behind it goes on at its larger side.
    """

    image, end = IMAGE, EOS

    def place(
        self, patches: torch.Tensor, tail: torch.Tensor, placeholders: torch.Tensor
    ) -> torch.Tensor:
        """Positions (3, B, S) of prefix, kept patches (B, k) and tails of a 14 x 14 image."""
        batch, start = len(patches), len(self.prefix)
        front = torch.arange(start).expand(3, batch, -1)
        seen = start + torch.stack([torch.zeros_like(patches), patches // GRID, patches % GRID])
        return torch.cat([front, seen, (start + GRID + tail).expand(3, batch, -1)], 2)


@lru_cache(maxsize=1)
def qwen_chat() -> QwenChat:
    """Return the one instance, which remembers tokenised prompts."""
    return QwenChat(build_qwen_processor())
