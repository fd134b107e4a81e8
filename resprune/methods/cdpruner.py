"""CDPruner: conditional diversity by a determinantal point process (arXiv 2506.10967)."""

from __future__ import annotations

from torch import Tensor

from resprune.errors import ResPruneError
from resprune.methods.base import (
    MethodOptions,
    Selection,
    SelectionInput,
    budget_of,
    needed,
    register,
)
from resprune.subspace import greedy_order
from resprune.subspace.gram import unit_rows


@register
class CDPruner:
    """Greedy MAP of a DPP with kernel ``r_i cos(v_i, v_j) r_j``.

    That is the greedy expansion on unit rows with weight r^2 and no seed. Where the published code
    meets a negative square root (a budget over the rank) and repeats tokens, the expansion restarts
    here on what is left.

    The published relevance is the min-max of the *negative* mean cosine between CLIP's image and
    text embeddings; it is used when ``extras`` hold ``image_embeds`` and ``text_embeds``. Backbones
    whose tower has no text side give ``relevance`` instead, as every method gets it here.

    Source: CDPruner, arXiv 2506.10967.
    """

    name = "cdpruner"
    nested = True
    needs = frozenset({"relevance"})

    def select(self, inputs: SelectionInput, k: int, options: MethodOptions) -> Selection:
        """Order by the greedy expansion."""
        budget = budget_of(inputs, k)
        if "image_embeds" in inputs.extras and "text_embeds" in inputs.extras:
            relevance = contrastive_relevance(
                needed(inputs, "image_embeds", self.name), needed(inputs, "text_embeds", self.name)
            )
        else:
            relevance = needed(inputs, "relevance", self.name)
        if relevance.shape != inputs.tokens.shape[:1]:
            raise ResPruneError(
                f"method 'cdpruner': image_embeds have {relevance.shape[0]} rows and the image "
                f"{inputs.tokens.shape[0]} tokens; give one row a token."
            )
        rows, _ = unit_rows(inputs.tokens)
        return Selection(greedy_order(rows, relevance**2, budget))


def contrastive_relevance(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """Relevance as CDPruner has it, from the contrastive model's two sides.

    Args:
        image_embeds: One row a token, shape (T, c).
        text_embeds: One row a piece of the prompt, shape (L, c).

    Returns:
        Min-max of the negative mean cosine, shape (T,); ones where all are the same.
    """
    score = -(unit_rows(image_embeds)[0] @ unit_rows(text_embeds)[0].T).mean(dim=1)
    low, high = score.amin(), score.amax()
    if bool(high - low <= 1e-6):
        return score.new_ones(score.shape)
    return (score - low) / (high - low)
