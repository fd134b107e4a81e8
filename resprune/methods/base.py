"""What a method is given, what it gives back, and the registry they all join."""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from resprune.errors import ResPruneError, UnsupportedModelError, near_names
from resprune.options import Options, searchable

Stage = Literal["none", "image", "tokens", "layers"]
"""Where a method acts: nowhere, on the image before the tower, on the tokens before the LLM, or at
layers of the LLM."""
ATTENTION = "attention"
"""The need of methods that rank by attention: ``cls_attention``, or what stands in for it."""
_O = TypeVar("_O", bound=Options)


@dataclass(frozen=True)
class Inputs:
    """One image, or one pool of candidate visual tokens.

    Attributes:
        tokens: Visual tokens in the LLM's input-embedding space, shape (T, d).
        relevance: Normalised relevance floored at eps, shape (T,); None where the method does not
            need it.
        signals: Per-token signals of the vision tower by name, each of shape (T,), such as
            ``cls_attention``.
        extras: Further tensors that some rivals read: ``image_embeds`` (T, c) and ``text_embeds``
            (L, c) of the contrastive model, ``keys`` (T, c) of the vision tower.
        places: Tile, row and column of each token, shape (T, 3), int64; None where unknown.
        key: Names the sample, so that a random method draws anew for each.
    """

    tokens: Tensor
    relevance: Tensor | None = None
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    places: Tensor | None = None
    key: str = ""


@dataclass(frozen=True)
class Batch:
    """Several images, each with the same number of prompts.

    Attributes:
        tokens: Visual tokens, shape (B, T, d), padded at the end.
        lengths: Real tokens of each image, shape (B,); None where none is padded.
        relevance: Relevance of each prompt, shape (B, Q, T); None where the method does not need
            it (Q is 1 then).
        signals: Per-token signals by name, each of shape (B, T).
    """

    tokens: Tensor
    lengths: Tensor | None = None
    relevance: Tensor | None = None
    signals: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """What a method kept.

    Attributes:
        indices: Unique kept indices in pick order, shape (k,), int64.
        features: Features that replace those of the kept tokens, shape (k, d), rows follow
            ``indices``; None leaves the kept tokens unchanged.
    """

    indices: Tensor
    features: Tensor | None = None


class Method(ABC, Generic[_O]):
    """A way to choose the kept tokens of one image.

    Attributes:
        name: Name in the registry.
        options: Its options: a frozen pydantic model.
        stage: Where it acts.
        nested: Whether a smaller budget's order is a prefix of a larger one's.
        draws: Whether it draws at random, anew for each ``Inputs.key``.
        version: Changes when the features that it replaces do; part of what outcomes are
            remembered by.
        stand_ins: What a row says where an extra that it was published with is not at hand, by
            the extra's name.
    """

    name: ClassVar[str]
    options: ClassVar[type[Options]]
    stage: ClassVar[Stage] = "tokens"
    nested: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    version: ClassVar[str] = "1"
    stand_ins: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def needs(self, options: _O) -> frozenset[str]:
        """Return what it reads beside the tokens under these options.

        Args:
            options: Its options.

        Returns:
            ``relevance``, ``attention`` (``cls_attention``, or ``received_attention`` where the
            tower has no CLS token), or names of signals that nothing stands in for.
        """
        return frozenset()

    @abstractmethod
    def select(self, image: Inputs, k: int, options: _O) -> Selection:
        """Keep exactly ``min(k, T)`` unique tokens of one image.

        Args:
            image: The image.
            k: Count of at least 1.
            options: Its options.

        Returns:
            The selection, on the device of ``image.tokens``.

        Raises:
            ResPruneError: An input that is absent or does not fit, or a count below 1.
        """

    def weights(self, image: Inputs, options: _O) -> Tensor | None:
        """Return the weights (T,) of energy budgets; None weighs every token alike."""
        return None


class Nested(Method[_O]):
    """A nested method with a batched path: many options of many prompts of many images at once."""

    nested: ClassVar[bool] = True

    @abstractmethod
    def order_many(self, batch: Batch, options: Sequence[_O], k: int) -> Tensor:
        """Order the tokens of several images.

        Args:
            batch: B images with Q prompts each.
            options: A options, alike in what relevance is made from.
            k: Count of at least 1.

        Returns:
            Pick orders, shape (B, Q, A, min(k, T)), int64, equal to ``select``'s; -1 past the end
            of shorter images.
        """


_GROUP = "resprune.methods"
_METHODS: dict[str, Method[Any]] = {}
_MethodClass = TypeVar("_MethodClass", bound=type[Method[Any]])


def register(cls: _MethodClass) -> _MethodClass:
    """Add a method to the registry; a class decorator.

    Args:
        cls: A subclass of ``Method`` without constructor arguments.

    Returns:
        The class, unchanged.

    Raises:
        ResPruneError: A name that another class has taken.
    """
    taken = _METHODS.get(cls.name)
    if taken is not None and _home(type(taken)) != _home(cls):
        raise ResPruneError(
            f"method name {cls.name!r} is taken by {type(taken).__name__}; rename {cls.__name__}."
        )
    _METHODS[cls.name] = cls()
    return cls


def _home(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def names(stage: Stage | None = None) -> list[str]:
    """Return the names of the registered methods, sorted; of one stage where it is given."""
    _load_installed()
    return sorted(name for name, m in _METHODS.items() if stage in (None, m.stage))


def get(name: str) -> Method[Any]:
    """Return the method of that name.

    Args:
        name: One of ``names()``.

    Returns:
        The method.

    Raises:
        ResPruneError: An unknown name; near names are suggested.
    """
    if name not in _METHODS:
        _load_installed()
    if name not in _METHODS:
        raise ResPruneError(
            f"unknown method {name!r}. {near_names(str(name), _METHODS)} A method of another "
            f"package is found when that is installed (entry-point group {_GROUP!r})."
        )
    return _METHODS[name]


@functools.cache
def _load_installed() -> None:
    """Import what installed packages name in the entry-point group, once; see ``register``."""
    from importlib.metadata import entry_points

    for point in entry_points(group=_GROUP):
        try:
            point.load()
        except Exception as error:  # another package's fault must not stop this one
            warnings.warn(
                f"the entry point {point.name} = {point.value!r} of the group {_GROUP!r} does not "
                f"load ({type(error).__name__}: {error}); mend or uninstall its package",
                stacklevel=3,
            )


def per_prompt_options() -> list[str]:
    """Return the options, of any method, that an adaptive policy may choose for each prompt."""
    found = {
        name
        for method in names()
        for name, search in searchable(get(method).options).items()
        if search.per_prompt
    }
    return sorted(found)


def budget_of(image: Inputs, k: int) -> int:
    """Check the tokens and the count.

    Args:
        image: The image.
        k: Count.

    Returns:
        ``min(k, T)``.

    Raises:
        ResPruneError: Tokens that are no finite matrix of at least one row, or a count below 1.
    """
    tokens = image.tokens
    if tokens.ndim != 2 or tokens.shape[0] == 0:
        raise ResPruneError(
            f"tokens have shape {tuple(tokens.shape)}; a method needs (T, d) with at "
            "least one token."
        )
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ResPruneError(f"budget k is {k!r}; give a count of at least 1 token.")
    _check_finite(tokens, "tokens")
    return min(k, tokens.shape[0])


def needed(image: Inputs, name: str, method: str) -> Tensor:
    """Fetch an input that a method cannot do without.

    Args:
        image: The image.
        name: ``relevance``, ``attention`` (that from CLS, averaged over heads; where the tower has
            no CLS token what a token receives from all others, as the rivals' authors have it),
            or the name of a signal or an extra.
        method: Name of the method, for the error.

    Returns:
        The tensor in float32 (float64 stays), on the tokens' device.

    Raises:
        ResPruneError: It is absent, not finite, or a signal of another length than the tokens.
    """
    available = {**image.extras, **image.signals}
    if image.relevance is not None:
        available["relevance"] = image.relevance
    if name == ATTENTION:
        stands_in = "cls_attention" not in available and "received_attention" in available
        name = "received_attention" if stands_in else "cls_attention"
    if name not in available:
        raise UnsupportedModelError(
            f"method {method!r} needs {name!r}, which this backbone or call does not give "
            f"(available: {', '.join(sorted(available)) or 'none'}). Use a backbone that gives it, "
            "or a method that needs tokens alone, such as 'l2_norm' or 'divprune'."
        )
    value = available[name]
    per_token = name == "relevance" or name in image.signals
    if per_token and value.shape != image.tokens.shape[:1]:
        raise ResPruneError(
            f"method {method!r}: {name!r} has shape {tuple(value.shape)} and the image "
            f"{image.tokens.shape[0]} tokens; give one value a token."
        )
    _check_finite(value, name)
    return value.to(
        device=image.tokens.device,
        dtype=torch.float64 if value.dtype == torch.float64 else torch.float32,
    )


def _check_finite(value: Tensor, what: str) -> None:
    if not bool(torch.isfinite(value).all()):
        raise ResPruneError(
            f"{what} hold a non-finite value; check the vision tower's output (float16 overflow "
            "is the usual cause: load the model in bfloat16 or float32)."
        )
