"""The conformance suite's case for images with newline tokens (LLaVA-NeXT, LLaVA-OneVision)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from resprune.testing.case import Case


@dataclass
class NewlineCase(Case):
    """A case whose images hold newline tokens, which stay only when every visual token stays.

    They are told apart by their feature, which is the model's own newline vector.
    """

    def kept_placeholders(self, features: Tensor, keep: Tensor) -> set[int]:
        """Count visual tokens past newline tokens."""
        newline = self.model.base_model.image_newline
        visual = [place for place, row in enumerate(features) if not torch.equal(row, newline)]
        if len(keep) == len(visual):
            return set(range(len(features)))
        return {visual[index] for index in keep.tolist()}
