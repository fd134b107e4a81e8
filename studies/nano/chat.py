"""How a model's prompts are laid out: the ids around the image, and the positions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from studies.nano.processor import EOS, IMAGE, build_processor, chat
from studies.nano.questions import TEMPLATES, render
from studies.nano.scenes import COLOR_NAMES, SHAPES


class Chat:
    """Prompts the way of nano-llava; other families override what differs."""

    image, end = IMAGE, EOS

    def __init__(self, processor: Any = None) -> None:
        self.processor = build_processor() if processor is None else processor
        self._prompts: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.prefix = self.prompt("Is there a star?")[0]
        """Token ids in front of the image."""
        texts = {
            render(template, subject)
            for templates in TEMPLATES.values()
            for template in templates
            for subject in (*SHAPES, *COLOR_NAMES)
        }
        self.tail_length = max(len(self.prompt(text)[1]) for text in texts) + 2
        """Longest prompt behind the image over all wordings, with the answer and the end token."""

    def prompt(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids before and after the image of the rendered prompt, as the processor gives them."""
        if text not in self._prompts:
            rendered = self.processor.apply_chat_template(chat(text), add_generation_prompt=True)
            ids = self.processor.tokenizer(rendered)["input_ids"]
            at = ids.index(self.processor.tokenizer.convert_tokens_to_ids(self.image))
            self._prompts[text] = tuple(ids[:at]), tuple(ids[at + 1 :])
        return self._prompts[text]

    def place(
        self, patches: torch.Tensor, tail: torch.Tensor, placeholders: torch.Tensor
    ) -> torch.Tensor:
        """Positions (B, S), or (3, B, S), of prefix, kept patches (B, k) and tails.

        Args:
            patches: which of the image's placeholders are kept.
            tail: (L,) places behind the image.
            placeholders: (B,) how many the unpruned prompt has.
        """
        batch, start = len(patches), len(self.prefix)
        front = torch.arange(start).expand(batch, -1)
        return torch.cat([front, start + patches, start + placeholders[:, None] + tail], 1)


@lru_cache(maxsize=1)
def llava_chat() -> Chat:
    """Return the one instance, which remembers tokenised prompts."""
    return Chat()
