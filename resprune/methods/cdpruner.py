"""CDPruner: conditional diversity by a determinantal point process (arXiv 2506.10967)."""

from __future__ import annotations

from types import MappingProxyType

from torch import Tensor

from resprune.errors import ResPruneError
from resprune.methods.base import Inputs, Method, Selection, budget_of, needed, register
from resprune.options import Options, Relevance
from resprune.subspace import greedy_order
from resprune.subspace.gram import unit_rows


class CDPrunerOptions(Options):
    """Options of CDPruner.

    Attributes:
        relevance: How relevance is made, where the contrastive model's two sides are not given.
    """

    relevance: Relevance = Relevance()


@register
class CDPruner(Method[CDPrunerOptions]):
    """Greedy MAP of a DPP with kernel ``r_i cos(v_i, v_j) r_j``.

    That is the greedy expansion on unit rows with weight r^2 and no seed. Where the published code
    meets a negative square root (a budget over the rank) and repeats tokens, the expansion restarts
    here on what is left.

    The published relevance is the min-max of the *negative* mean cosine between CLIP's image and
    text embeddings; it is used when ``extras`` hold ``image_embeds`` and ``text_embeds``, which a
    backbone with a ``text_model`` gives. Without one ``relevance`` stands in, as every method gets
    it here, and rows say 'noun relevance'.

    Source: CDPruner, arXiv 2506.10967.
    """

    name = "cdpruner"
    options = CDPrunerOptions
    nested = True
    stand_ins = MappingProxyType({"text_embeds": "noun relevance"})

    def needs(self, options: CDPrunerOptions) -> frozenset[str]:
        """Relevance."""
        return frozenset({"relevance"})

    def select(self, image: Inputs, k: int, options: CDPrunerOptions) -> Selection:
        """Order by the greedy expansion."""
        count = budget_of(image, k)
        rows, _ = unit_rows(image.tokens)
        return Selection(greedy_order(rows, self._relevance(image) ** 2, count))

    def weights(self, image: Inputs, options: CDPrunerOptions) -> Tensor:
        """``r^2 / ||v||^2``: energy is that of the unit rows; 0 for a zero row, which has none."""
        _, norms = unit_rows(image.tokens)
        weights = self._relevance(image).double() ** 2 / norms**2
        return weights.masked_fill(norms == 0, 0.0)

    def _relevance(self, image: Inputs) -> Tensor:
        if "image_embeds" not in image.extras or "text_embeds" not in image.extras:
            return needed(image, "relevance", self.name)
        relevance = contrastive_relevance(
            needed(image, "image_embeds", self.name), needed(image, "text_embeds", self.name)
        )
        if relevance.shape != image.tokens.shape[:1]:
            raise ResPruneError(
                f"method 'cdpruner': image_embeds have {relevance.shape[0]} rows and the image "
                f"{image.tokens.shape[0]} tokens; give one row a token."
            )
        return relevance


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
