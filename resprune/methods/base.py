"""What a method is given, what it gives back, and the registry they all join."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from resprune.errors import ResPruneError, UnsupportedModelError, near_names


@dataclass(frozen=True)
class SelectionInput:
    """One image, or one pool of candidate visual tokens.

    Attributes:
        tokens: Visual tokens in the LLM's input-embedding space, shape (T, d).
        relevance: Normalised relevance floored at eps, shape (T,); None when the method does not
            ask for it.
        signals: Per-token signals of the vision tower by name, each of shape (T,), such as
            ``cls_attention``.
        extras: Further tensors that some rivals read: ``image_embeds`` (T, c) and ``text_embeds``
            (L, c) of the contrastive model, ``keys`` (T, c) of the vision tower.
    """

    tokens: Tensor
    relevance: Tensor | None = None
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)


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


@dataclass(frozen=True)
class MethodOptions:
    """Settings of a method; each reads what it knows.

    Attributes:
        alpha: Exponent of the relevance.
        seed_strategy: Name in ``resprune.seeds.SEED_STRATEGIES``.
        seed: Seed of what is random.
    """

    alpha: float = 0.5
    seed_strategy: str = "l2_norm"
    seed: int = 0


@runtime_checkable
class Method(Protocol):
    """A way to choose the kept tokens of one image.

    Attributes:
        name: Name in the registry.
        nested: Whether a smaller budget's order is a prefix of a larger one's.
        needs: What must be in the input beside the tokens: ``relevance``, or the names of signals
            and extras. What depends on an option (a seed strategy's signal) is not listed.
    """

    name: str
    nested: bool
    needs: frozenset[str]

    def select(self, inputs: SelectionInput, k: int, options: MethodOptions) -> Selection:
        """Keep exactly ``min(k, T)`` unique tokens of one image.

        Args:
            inputs: The image.
            k: Budget, a count of at least 1.
            options: Settings.

        Returns:
            The selection, on the device of ``inputs.tokens``.

        Raises:
            ResPruneError: An input that is absent or does not fit, or a budget below 1.
        """
        ...


_METHODS: dict[str, Method] = {}
_MethodClass = TypeVar("_MethodClass", bound=type[Method])


def register(cls: _MethodClass) -> _MethodClass:
    """Add a method to the registry; a class decorator.

    Args:
        cls: A class without constructor arguments that satisfies ``Method``.

    Returns:
        The class, unchanged.

    Raises:
        ResPruneError: A name that another class has taken.
    """
    method = cls()
    taken = _METHODS.get(method.name)
    if taken is not None and type(taken).__qualname__ != cls.__qualname__:
        raise ResPruneError(
            f"method name {method.name!r} is taken by {type(taken).__name__}; rename "
            f"{cls.__name__}."
        )
    _METHODS[method.name] = method
    return cls


def names() -> list[str]:
    """Return the names of every registered method, sorted."""
    return sorted(_METHODS)


def get(name: str) -> Method:
    """Return the method of that name.

    Args:
        name: One of ``names()``.

    Returns:
        The method.

    Raises:
        ResPruneError: An unknown name; near names are suggested.
    """
    if name not in _METHODS:
        raise ResPruneError(f"unknown method {name!r}. {near_names(str(name), _METHODS)}")
    return _METHODS[name]


def budget_of(inputs: SelectionInput, k: int) -> int:
    """Check the tokens and the budget.

    Args:
        inputs: The image.
        k: Budget, a count.

    Returns:
        ``min(k, T)``.

    Raises:
        ResPruneError: Tokens that are no finite matrix of at least one row, or a budget below 1.
    """
    tokens = inputs.tokens
    if tokens.ndim != 2 or tokens.shape[0] == 0:
        raise ResPruneError(
            f"tokens have shape {tuple(tokens.shape)}; a method needs (T, d) with at "
            "least one token."
        )
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ResPruneError(f"budget k is {k!r}; give a count of at least 1 token.")
    _check_finite(tokens, "tokens")
    return min(k, tokens.shape[0])


def needed(inputs: SelectionInput, name: str, method: str) -> Tensor:
    """Fetch an input that a method cannot do without.

    Args:
        inputs: The image.
        name: ``relevance``, or the name of a signal or an extra.
        method: Name of the method, for the error.

    Returns:
        The tensor in float32 (float64 stays), on the tokens' device.

    Raises:
        ResPruneError: It is absent, not finite, or a signal of another length than the tokens.
    """
    available = {**inputs.extras, **inputs.signals}
    if inputs.relevance is not None:
        available["relevance"] = inputs.relevance
    if name not in available:
        raise UnsupportedModelError(
            f"method {method!r} needs {name!r}, which this backbone or call does not give "
            f"(available: {', '.join(sorted(available)) or 'none'}). Use a backbone that gives it, "
            "or a method that needs tokens alone, such as 'l2_norm' or 'divprune'."
        )
    value = available[name]
    per_token = name == "relevance" or name in inputs.signals
    if per_token and value.shape != inputs.tokens.shape[:1]:
        raise ResPruneError(
            f"method {method!r}: {name!r} has shape {tuple(value.shape)} and the image "
            f"{inputs.tokens.shape[0]} tokens; give one value a token."
        )
    _check_finite(value, name)
    return value.to(
        device=inputs.tokens.device,
        dtype=torch.float64 if value.dtype == torch.float64 else torch.float32,
    )


def _check_finite(value: Tensor, what: str) -> None:
    if not bool(torch.isfinite(value).all()):
        raise ResPruneError(
            f"{what} hold a non-finite value; check the vision tower's output (float16 overflow "
            "is the usual cause: load the model in bfloat16 or float32)."
        )
