"""What a backbone is: the adapter between one family of models and everything else here.

To add a family, write one file in this folder with a subclass of ``Backbone`` under
``@register``; files whose names do not start with an underscore are found by themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from resprune.backbones._question import ChatMarkers, extract_question, learn_markers
from resprune.backbones._words import WordIds, WordVectors
from resprune.errors import ResPruneError, UnsupportedModelError
from resprune.prepare import Prepared, shorten

FREE_STRATEGIES = ("l2_norm", "relevance", "none")
"""Seed strategies that read no signal of a tower, and so work in every family."""
_SHOWN_NAMES = 3


@dataclass(frozen=True)
class VisualTokens:
    """The visual tokens of one image, as the LLM would get them.

    Attributes:
        tokens: In the LLM's input-embedding space, shape (T, d), the model's dtype.
        signals: Per-token signals of the vision tower by name (``cls_attention``), each of shape
            (T,), float32.
        grid: Rows and columns; token ``i`` lies at ``divmod(i, columns)``. (0, 0) where an image
            has several views (tiles), whose tokens form no single grid; then see ``places``.
        boxes: x0, y0, x1, y1 of each token in pixels of the original image, shape (T, 4), float32;
            they pass the image's edges where the processor padded. None when the original size is
            not known.
        extras: What some methods read beside signals, and what ``prepare`` of the same backbone
            needs to know of each image.
        places: Tile, row and column of each token, shape (T, 3), int64, where an image has several
            views; tiles are numbered as the processor makes them. None where ``grid`` says it all.
    """

    tokens: Tensor
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    grid: tuple[int, int] = (0, 0)
    boxes: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    places: Tensor | None = None

    def tile_row_column(self) -> Tensor:
        """Return where each token lies: its tile, and row and column in it.

        Returns:
            Shape (T, 3), int64.
        """
        if self.places is not None:
            return self.places
        return _cells(len(self.tokens), max(self.grid[1], 1))


@lru_cache(maxsize=64)
def _cells(tokens: int, columns: int) -> Tensor:
    """Tile 0, row and column of each token of one grid; the same for every image of its size."""
    index = torch.arange(tokens)
    return torch.stack([torch.zeros_like(index), index // columns, index % columns], dim=1)


class Backbone(ABC):
    """Adapter of one model family: encoder in, shortened model inputs out.

    A subclass gives ``family``, ``model_types``, ``encode`` and ``image_lengths``; the rest has
    defaults for models with 1-D positions whose placeholders all hold visual tokens.

    Attributes:
        family: Name of the family, as in ``PruningConfig.backbone.family``.
        model_types: ``config.model_type`` of the models it serves.
        image_inputs: Names of the model inputs that ``prepare`` stands in for; the first one is
            there when a call has images.
        transformers_classes: Names of the model classes in transformers; this and the next three
            are what ``facts`` says.
        offered_signals: Signals that models of the family may give; ``seed_signals`` are those of
            the loaded one.
        position_axes: What position ids count: ``1-D``, or ``M-RoPE (t, h, w)``.
        refused: What ends in an error, in a few words each.
        model: The loaded model, with its language-model head.
        processor: Its processor.
        image_token_id: Id of the placeholder that stands for one visual token.
        width: Width d of the LLM's input embeddings.
        visual_tokens: Visual tokens T of an image where the model fixes it, else None.
        seed_signals: Names of the signals that ``encode`` can give, best first.
        text_model: ``resprune.textmodel.TextModel`` of the vision tower, where one was given; then
            ``encode`` gives ``image_embeds`` among the extras.
    """

    family: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")
    transformers_classes: ClassVar[tuple[str, ...]] = ()
    offered_signals: ClassVar[tuple[str, ...]] = ()
    position_axes: ClassVar[str] = "1-D"
    refused: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.image_token_id: int = int(model.config.image_token_id)
        self.width: int = int(model.get_input_embeddings().weight.shape[1])
        self.visual_tokens: int | None = None
        self.seed_signals: tuple[str, ...] = ()
        self.text_model: Any = None
        self._word_ids: WordIds | None = None
        self._word_vectors: WordVectors | None = None
        self._markers: ChatMarkers | None = None
        self._check_processor()

    # -- which models -------------------------------------------------------------------

    @classmethod
    def serves(cls, model: Any) -> bool:
        """Say whether this adapter fits a model.

        Args:
            model: A loaded model.

        Returns:
            True when its type is one of ``model_types`` and it can generate.
        """
        config = getattr(model, "config", None)
        return (
            getattr(config, "model_type", None) in cls.model_types
            and hasattr(model, "get_image_features")
            and hasattr(model, "generate")
        )

    @classmethod
    def facts(cls) -> dict[str, Any]:
        """Say what users ask of a family before they load a model.

        Returns:
            ``family``, ``transformers_classes``, ``seed_strategies`` (signals first),
            ``positions`` and ``refused``; strings and lists of strings.
        """
        return {
            "family": cls.family,
            "transformers_classes": list(cls.transformers_classes),
            "seed_strategies": [*cls.offered_signals, *FREE_STRATEGIES],
            "positions": cls.position_axes,
            "refused": list(cls.refused),
        }

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    # -- the image ----------------------------------------------------------------------

    @abstractmethod
    def encode(
        self,
        inputs: Mapping[str, Any],
        *,
        signals: Collection[str] = (),
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[VisualTokens]:
        """Run the vision tower and the projector once, without gradient.

        Args:
            inputs: The processor's output; what belongs to the text is not read.
            signals: Names out of ``seed_signals`` to record on the way.
            image_sizes: Original (height, width) of each image, for ``boxes``.

        Returns:
            One entry an image of the batch, in order; empty without images.

        Raises:
            UnsupportedModelError: A signal that this model cannot give.
            ResPruneError: Features that are not finite; the message names the image.
        """

    @abstractmethod
    def image_lengths(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return how many placeholders each image of the batch takes, without encoding.

        Args:
            inputs: The processor's output.

        Returns:
            One count an image, in order.
        """

    def feature_layer(self) -> Any:
        """Return the tower's layer that features are taken from.

        Raises:
            UnsupportedModelError: The family does not say which.
        """
        raise UnsupportedModelError(f"{self.family}: text_model is not supported; leave it out")

    def has_video(self, inputs: Mapping[str, Any]) -> bool:
        """Say whether a call has a video; such a call passes through unpruned.

        Args:
            inputs: The processor's output.

        Returns:
            True when it has one.
        """
        return inputs.get("pixel_values_videos") is not None

    def image_counts(self, input_ids: Tensor) -> list[int]:
        """Count the images of each row.

        Args:
            input_ids: Shape (B, S), placeholders expanded.

        Returns:
            One count a row.

        Raises:
            ResPruneError: The placeholders of a row are no multiple of T, or T is not fixed for
                this model (use ``prepare``, which knows each image's length).
        """
        if self.visual_tokens is None:
            raise ResPruneError(
                f"{self.family}: visual tokens vary by image, so ids alone do not tell how many "
                "images a row has; encode the images and use prepare"
            )
        counts = []
        for row, found in enumerate((input_ids == self.image_token_id).sum(dim=1).tolist()):
            images, rest = divmod(found, self.visual_tokens)
            if rest:
                raise ResPruneError(
                    f"row {row} of input_ids has {found} image placeholders, no multiple of the "
                    f"{self.visual_tokens} visual tokens of an image; make the ids with the "
                    "model's own processor"
                )
            counts.append(images)
        return counts

    # -- the prompt ---------------------------------------------------------------------

    def question(self, input_ids: Tensor, *, closed: bool = False) -> str:
        """Recover the question from the ids of one row.

        The last user turn's text under the processor's chat template, after its last image, with
        system text, earlier turns, the assistant's answer and known answer-format instructions
        left out. A processor without a template: common role markers are used instead.

        Args:
            input_ids: Shape (S,), padding allowed.
            closed: Give the text only of a turn that the template ends: set it where ids may hold
                an answer without a mark of its beginning.

        Returns:
            The question, possibly empty.
        """
        return extract_question(
            input_ids, self.tokenizer, self.image_token_id, self.markers, closed=closed
        )

    @property
    def markers(self) -> ChatMarkers:
        """Where user turns begin and end under the processor's chat template."""
        if self._markers is None:
            self._markers = learn_markers(self.processor, self.image_token_id)
        return self._markers

    def chat_prompt(self, text: str, images: int = 1) -> str:
        """Render one user turn with the processor's chat template and generation prompt.

        Args:
            text: The turn's text.
            images: Images before the text.

        Returns:
            The prompt, one image token an image, ready for the processor.

        Raises:
            ResPruneError: The processor has no chat template.
        """
        if not getattr(self.processor, "chat_template", None):
            raise ResPruneError(
                f"{type(self.processor).__name__} has no chat template; set "
                "processor.chat_template, or write the prompt by hand"
            )
        content: list[dict[str, str]] = [{"type": "image"} for _ in range(images)]
        content.append({"type": "text", "text": text})
        turns = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(turns, add_generation_prompt=True))

    @property
    def word_ids(self) -> WordIds:
        """Token ids of a question's words, in context."""
        if self._word_ids is None:
            self._word_ids = WordIds(self.tokenizer)
        return self._word_ids

    @property
    def word_vectors(self) -> WordVectors:
        """Words in the LLM's input-embedding space."""
        if self._word_vectors is None:
            self._word_vectors = WordVectors(self.model.get_input_embeddings())
        return self._word_vectors

    def noun_embeddings(self, question: str, spans: Sequence[tuple[int, int]]) -> Tensor:
        """Embed words of a question in context.

        The question is tokenised whole and the sub-words that overlap a span are averaged.

        Args:
            question: The question.
            spans: (start, end) character offsets of L words.

        Returns:
            Shape (L, d), the embedding's dtype and device.
        """
        return self.word_vectors.embed(self.word_ids.of(question, spans))

    def noun_rarity(
        self, question: str, spans: Sequence[tuple[int, int]]
    ) -> tuple[list[float], list[float]]:
        """Measure how rare words are, for the alpha predictor.

        Args:
            question: The question.
            spans: (start, end) character offsets of L words.

        Returns:
            Tokenizer rank in [0, 1] (token id over vocabulary size, mean over sub-words) and
            embedding norm relative to the table's mean norm; L each.
        """
        return self.word_vectors.rarity(self.word_ids.of(question, spans))

    # -- model inputs -------------------------------------------------------------------

    def prepare(
        self,
        inputs: Mapping[str, Any],
        visual: Sequence[VisualTokens],
        kept: Sequence[Tensor],
        *,
        positions: str = "keep",
        padding_side: str = "left",
        features: Sequence[Tensor | None] | None = None,
    ) -> Prepared:
        """Turn kept indices into shorter model inputs.

        Nothing is shared between two calls (beam search changes what it is given), nor changed in
        ``inputs``.

        Args:
            inputs: The processor's output: ``input_ids`` (B, S) and, where present,
                ``attention_mask``, ``position_ids``, ``labels`` and token types of that shape.
            visual: The batch's images, in order.
            kept: Sorted unique indices of each image's kept tokens, shape (k_i,).
            positions: ``keep`` the original position ids, or ``compact`` them.
            padding_side: Where rows are padded to the longest.
            features: Features (k_i, d) that replace those of an image's kept tokens.

        Returns:
            The inputs for ``model(...)`` or ``generate``.

        Raises:
            ResPruneError: Placeholders and images do not match, or indices are out of range.
        """
        return shorten(
            inputs,
            [image.tokens for image in visual],
            kept,
            image_token_id=self.image_token_id,
            pad_token_id=self.pad_token_id,
            positions=positions,
            padding_side=padding_side,
            features=features,
        )

    def before_call(self, prepared: Prepared) -> None:  # noqa: B027
        """Set what the model itself remembers from a prompt to its decoding steps.

        Called before the model runs on prepared inputs. Most models remember nothing; those with
        M-RoPE do, for decode loops that pass a cache and no positions.

        Args:
            prepared: What ``prepare`` gave.
        """

    @property
    def pad_token_id(self) -> int:
        """Id that fills padding; it is masked, so any id will do."""
        for owner in (self.tokenizer, self.model.generation_config, self.model.config):
            value = getattr(owner, "pad_token_id", None)
            if value is not None:
                return int(value)
        return 0

    # -- checks -------------------------------------------------------------------------

    def require_signals(self, signals: Collection[str]) -> None:
        """Check that signals are on offer.

        Raises:
            UnsupportedModelError: One is not; the message says what to use instead.
        """
        for name in signals:
            if name not in self.seed_signals:
                offer = [*self.seed_signals, *FREE_STRATEGIES]
                raise UnsupportedModelError(
                    f"{self.family} ({type(self.model).__name__}) has no {name!r} signal; use one "
                    f"of these seed strategies: {', '.join(offer)}"
                )

    def _check_processor(self) -> None:
        for name in ("tokenizer", "image_processor"):
            if not hasattr(self.processor, name):
                raise UnsupportedModelError(
                    f"{type(self.processor).__name__} has no {name}; pass the model's processor "
                    "(AutoProcessor.from_pretrained), not a tokenizer"
                )


def check_finite(features: Sequence[Tensor]) -> None:
    """Check the projected features of each image.

    Args:
        features: One (T_i, d) tensor an image.

    Raises:
        ResPruneError: Some are not finite; the message names the images.
    """
    if not features:
        return
    finite = torch.stack([torch.isfinite(rows).all() for rows in features]).tolist()
    bad = [str(image) for image, fine in enumerate(finite) if not fine]
    if bad:
        shown = ", ".join(bad[:_SHOWN_NAMES]) + (" ..." if len(bad) > _SHOWN_NAMES else "")
        raise ResPruneError(
            f"image {shown} of this batch has visual features that are not finite; check its "
            "pixel values, or load the model in bfloat16 or float32 (float16 overflow is the "
            "usual cause)"
        )


_REGISTRY: dict[str, type[Backbone]] = {}
_BackboneClass = TypeVar("_BackboneClass", bound=type[Backbone])


def register(cls: _BackboneClass) -> _BackboneClass:
    """Add a backbone to the registry; a class decorator.

    Args:
        cls: A subclass of ``Backbone``.

    Returns:
        The class, unchanged.

    Raises:
        ResPruneError: Another class has taken the family's name.
    """
    taken = _REGISTRY.get(cls.family)
    if taken is not None and taken.__qualname__ != cls.__qualname__:
        raise ResPruneError(
            f"family {cls.family!r} is taken by {taken.__name__}; rename {cls.__name__}.family"
        )
    _REGISTRY[cls.family] = cls
    return cls


def registered() -> dict[str, type[Backbone]]:
    """Return every registered backbone class by family."""
    return dict(sorted(_REGISTRY.items()))
