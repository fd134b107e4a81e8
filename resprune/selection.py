"""From an encoded image and a question to kept indices: the step that attach and the tuner share.

Question -> nouns -> embeddings -> relevance -> alpha -> method -> kept. What is selected depends on
the question alone, never on an answer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resprune import methods
from resprune.backbones.base import Backbone, VisualTokens
from resprune.config import ALPHA_MAX, BudgetEntry, PruningConfig
from resprune.errors import ConfigError, ResPruneError
from resprune.relevance import relevance_scores
from resprune.seeds import SEED_STRATEGIES

if TYPE_CHECKING:
    from resprune.alpha import PromptContext
    from resprune.nouns import NounExtractor, TaggedWord

_SIGNAL_STRATEGIES = frozenset(name for name in SEED_STRATEGIES if name.endswith("_attention"))
_READER_CACHE = 4096


@dataclass(frozen=True)
class Prompt:
    """A question, read once for all its images.

    Attributes:
        question: The question; empty when a prompt asks nothing.
        tags: Its tagged words.
        nouns: Its L nouns in order (content words where it has no noun), possibly none.
        spans: Their (start, end) character offsets.
        embeddings: Their embeddings in the LLM's input-embedding space, shape (L, d).
        ranks: Their tokenizer ranks in [0, 1].
        norms: Their embedding norms relative to the table's mean.
    """

    question: str
    tags: Sequence[TaggedWord]
    nouns: list[str]
    spans: list[tuple[int, int]]
    embeddings: Tensor
    ranks: list[float]
    norms: list[float]

    def context(self, cosines: Tensor | None = None) -> PromptContext:
        """Return what the alpha predictor's features are made from.

        Args:
            cosines: Cosine of each noun with each visual token, shape (L, T), when an image is at
                hand.

        Returns:
            The context.
        """
        from resprune.alpha import PromptContext

        return PromptContext(
            question=self.question,
            tags=self.tags,
            nouns=self.nouns,
            noun_ranks=self.ranks,
            noun_norms=self.norms,
            cosines=None if cosines is None else cosines.double().cpu().numpy(),
        )


class PromptReader:
    """Reads questions: nouns and their embeddings, remembered by question.

    Args:
        backbone: Gives the embeddings.
        extractor: Gives the nouns.
        cache_size: Questions remembered.
    """

    def __init__(
        self, backbone: Backbone, extractor: NounExtractor, *, cache_size: int = _READER_CACHE
    ) -> None:
        self.backbone = backbone
        self.extractor = extractor
        self._cache_size = cache_size
        self._cache: OrderedDict[str, Prompt] = OrderedDict()

    def read(self, question: str) -> Prompt:
        """Read one question.

        Args:
            question: The question alone: no chat template, no answer-format instruction, no
                answer.

        Returns:
            The prompt; without a word in it, relevance is 1 everywhere.
        """
        if question in self._cache:
            self._cache.move_to_end(question)
            return self._cache[question]
        spans = self.extractor.spans(question)
        ranks, norms = self.backbone.noun_rarity(question, spans)
        prompt = Prompt(
            question=question,
            tags=self.extractor.content_tags(question),
            nouns=[question[start:end] for start, end in spans],
            spans=spans,
            embeddings=self.backbone.noun_embeddings(question, spans),
            ranks=ranks,
            norms=norms,
        )
        self._cache[question] = prompt
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return prompt


@dataclass(frozen=True)
class ImageSelection:
    """What was kept of one image.

    Attributes:
        kept: Sorted indices, shape (k,), int64.
        order: The same indices in pick order, shape (k,).
        alpha: The alpha used.
        relevance: Normalised relevance, shape (T,).
        features: Features (k, d) that replace those of ``kept``, row by row; None leaves them.
    """

    kept: Tensor
    order: Tensor
    alpha: float
    relevance: Tensor
    features: Tensor | None = None


def resolve_budget(budget: int | float, tokens: int) -> int:
    """Turn a budget into a count.

    Args:
        budget: A count (int), or a ratio in (0, 1] (float).
        tokens: Visual tokens T of the image, at least 1.

    Returns:
        ``min(count, T)`` or ``max(1, round(ratio * T))``.

    Raises:
        ResPruneError: A count below 1, a ratio outside (0, 1], or an image without tokens.
    """
    if tokens < 1:
        raise ResPruneError(f"an image has {tokens} visual tokens; there is nothing to keep")
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise ResPruneError(f"budget is {budget!r}; give a count (int) or a ratio (float)")
    if isinstance(budget, int):
        if budget < 1:
            raise ResPruneError(f"budget is {budget}; a count must be at least 1")
        return min(budget, tokens)
    if not (math.isfinite(budget) and 0.0 < budget <= 1.0):
        raise ResPruneError(f"budget is {budget}; a ratio must be above 0 and at most 1")
    return max(1, round(budget * tokens))


def check_alpha(alpha: float) -> float:
    """Check an alpha that a caller gave.

    Args:
        alpha: A number.

    Returns:
        It, as a float.

    Raises:
        ConfigError: Not a number in [0, 16].
    """
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not number or not (math.isfinite(alpha) and 0.0 <= alpha <= ALPHA_MAX):
        raise ConfigError(f"alpha is {alpha!r}; give a number from 0 to {ALPHA_MAX:g}")
    return float(alpha)


def needed_signals(
    entry: BudgetEntry, config: PruningConfig, offered: Collection[str] | None = None
) -> frozenset[str]:
    """Return the vision signals that a selection will read.

    A method that ranks by ``cls_attention`` reads ``received_attention`` in its place where the
    tower has no CLS token. A seed strategy is what the config says, and never replaced.

    Args:
        entry: The budget's entry.
        config: The pruning config.
        offered: ``Backbone.seed_signals``; None for a tower that gives every signal.

    Returns:
        Names for ``Backbone.encode(signals=...)``.
    """
    method = methods.get(config.method)
    wanted = {name for name in method.needs if name in _SIGNAL_STRATEGIES}
    if offered is not None and "cls_attention" not in offered and "received_attention" in offered:
        wanted = {"received_attention" if name == "cls_attention" else name for name in wanted}
    if config.method == "resprune" and entry.seed_strategy in _SIGNAL_STRATEGIES:
        wanted.add(entry.seed_strategy)
    return frozenset(wanted)


def relevance_of(
    visual: VisualTokens,
    prompt: Prompt,
    pooling: str = "max",
    normalization: str = "minmax",
    eps: float = 0.01,
) -> tuple[Tensor, Tensor]:
    """Score an image's tokens against a prompt's nouns.

    Args:
        visual: The encoded image, T tokens.
        prompt: The prompt, L nouns.
        pooling: See ``relevance_scores``.
        normalization: See ``relevance_scores``.
        eps: See ``relevance_scores``.

    Returns:
        Relevance (T,), and raw cosines (L, T) in float32.
    """
    nouns = prompt.embeddings.to(visual.tokens.device)
    relevance = relevance_scores(visual.tokens, nouns, pooling, normalization, eps)
    unit = torch.nn.functional.normalize
    cosines = unit(nouns.float(), dim=1) @ unit(visual.tokens.float(), dim=1).T
    return relevance, cosines


def choose_alpha(
    entry: BudgetEntry, config: PruningConfig, prompt: Prompt, cosines: Tensor | None
) -> float:
    """Return an entry's alpha, predicted from the prompt where it is adaptive.

    Args:
        entry: The budget's entry.
        config: The pruning config, with its predictor.
        prompt: The prompt.
        cosines: Raw cosines (L, T), when an image is at hand.

    Returns:
        Alpha.

    Raises:
        ConfigError: The entry is adaptive and the config has no predictor.
    """
    if entry.alpha != "adaptive":
        return float(entry.alpha)
    if config.predictor is None:
        raise ConfigError(
            f"alpha is 'adaptive' at budget {entry.budget} but the config has no alpha predictor"
        )
    from resprune.alpha import prompt_features

    return float(config.predictor.alpha(prompt_features(prompt.context(cosines)), entry.budget))


def select(
    visual: VisualTokens,
    prompt: Prompt,
    entry: BudgetEntry,
    config: PruningConfig,
    alpha: float | None = None,
    *,
    seed: int = 0,
) -> ImageSelection:
    """Choose the kept tokens of one image.

    Args:
        visual: The encoded image.
        prompt: The question about it.
        entry: Budget, alpha and seed strategy.
        config: Method and relevance options.
        alpha: Overrides the entry's alpha.
        seed: Seed of a method that is random.

    Returns:
        The selection.

    Raises:
        ResPruneError: Features that are not finite, a signal that is absent, or an alpha out of
            range.
    """
    budget = resolve_budget(entry.budget, len(visual.tokens))
    relevance, cosines = relevance_of(
        visual, prompt, config.pooling, config.normalization, config.eps
    )
    used = choose_alpha(entry, config, prompt, cosines) if alpha is None else check_alpha(alpha)
    selection = methods.get(config.method).select(
        methods.SelectionInput(visual.tokens, relevance, visual.signals, visual.extras),
        budget,
        methods.MethodOptions(alpha=used, seed_strategy=entry.seed_strategy, seed=seed),
    )
    kept, rank = selection.indices.sort()
    features = None if selection.features is None else selection.features[rank]
    return ImageSelection(kept, selection.indices, used, relevance, features)
