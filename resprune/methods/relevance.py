"""Keep the tokens most relevant to the prompt; the relevance-only ablation of ResPrune."""

from __future__ import annotations

from resprune.methods._common import top
from resprune.methods.base import Inputs, Method, Selection, budget_of, needed, register
from resprune.options import Options, Relevance


class RankingOptions(Options):
    """Options of the ranking by relevance.

    Attributes:
        relevance: How relevance is made.
    """

    relevance: Relevance = Relevance()


@register
class RelevanceRanking(Method[RankingOptions]):
    """Rank by relevance, whatever is already kept.

    Source: the ablation of ResPrune, arXiv 2603.21105.
    """

    name = "relevance"
    options = RankingOptions
    nested = True

    def needs(self, options: RankingOptions) -> frozenset[str]:
        """Relevance."""
        return frozenset({"relevance"})

    def select(self, image: Inputs, k: int, options: RankingOptions) -> Selection:
        """Order by falling relevance, ties to the lowest index."""
        budget_of(image, k)
        return top(image, needed(image, "relevance", self.name), k)
