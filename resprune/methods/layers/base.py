"""What a method inside the LLM is, and what it may read there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from resprune.errors import ResPruneError
from resprune.methods.base import Inputs, Method, Selection, Stage
from resprune.options import Options, Positions

PUBLISHED_DEPTH = 32
"""Decoder layers of the models that published layers are those of."""
_O = TypeVar("_O", bound=Options)


class LayerView(Protocol):
    """What a method may read before decoder layer ``index`` runs on a batch of B prompts.

    Rows are in front padded to n slots.

    Attributes:
        index: The layer, from 0.
        depth: Decoder layers L.
        hidden: Hidden states, shape (B, n, D).
        valid: False on padding, shape (B, n).
        visual: Slots of the visual tokens that are left, one (T_b,) tensor a row.
        text: Slots behind the last visual token, one tensor a row.
        counts: How many visual tokens this layer leaves of each row; those already there where the
            method does not drop here.
    """

    index: int
    depth: int
    hidden: Tensor
    valid: Tensor
    visual: list[Tensor]
    text: list[Tensor]
    counts: list[int]

    def keys(self) -> Tensor:
        """Return this layer's rotated keys, shape (B, KV heads, n, d)."""

    def attention(self, row: int, slots: Tensor) -> Tensor:
        """Return this layer's attention of some queries of a row, (heads, len(slots), n), float32.

        Args:
            row: The row.
            slots: Slots of the queries.
        """

    def normed(self) -> Tensor:
        """Return the hidden states under the decoder's final norm, shape (B, n, D)."""


@dataclass(frozen=True)
class Drop:
    """What a method keeps, one entry a row.

    Attributes:
        kept: Sorted slots of the visual tokens that stay, ``view.counts[b]`` of them.
        merged: Slots among them and the hidden states (len(slots), D) that replace theirs, where
            tokens were merged; None leaves a row's.
    """

    kept: list[Tensor]
    merged: list[tuple[Tensor, Tensor] | None] | None = None


class LayerMethod(Method[_O]):
    """A way to drop visual tokens inside the LLM.

    Attributes:
        published: The positions of its published code; ``compact`` renumbers at every drop.
    """

    stage: ClassVar[Stage] = "layers"
    published: ClassVar[Positions] = "keep"

    @abstractmethod
    def schedule(self, options: _O, depth: int, tokens: int, k: int) -> Mapping[int, int]:
        """Return how many visual tokens are left, by the layer before which the others drop.

        Args:
            options: Its options.
            depth: Decoder layers L.
            tokens: Visual tokens T of a row that enter the LLM.
            k: Those left in the end, at most T.

        Returns:
            Counts by layer, 1 to L - 1, both ordered: layers rise, counts do not; the last is k.

        Raises:
            ResPruneError: It cannot leave k on a decoder of this depth.
        """

    def reads(self, options: _O, depth: int) -> frozenset[int]:
        """Return the further layers before which ``visit`` is called, without dropping."""
        return frozenset()

    def notes(self, options: _O, depth: int, positions: Positions) -> tuple[str, ...]:
        """Return what differs from how it was published, in a word or two each.

        Args:
            options: Its options.
            depth: Decoder layers L.
            positions: Position policy.
        """
        scaled = () if depth == PUBLISHED_DEPTH else ("scaled",)
        kept = positions == "keep" and self.published == "compact"
        return (*scaled, "positions kept") if kept else scaled

    @abstractmethod
    def visit(self, view: LayerView, memory: dict[str, Any], options: _O) -> Drop | None:
        """Read the prompts before a layer, and choose what stays where the layer drops.

        Args:
            view: The state.
            memory: The method's own, for one prefill.
            options: Its options.

        Returns:
            What stays; None before a layer that is only read.
        """

    def select(self, image: Inputs, k: int, options: _O) -> Selection:
        """Refuse: what is kept is known only inside the LLM.

        Raises:
            ResPruneError: Always.
        """
        raise ResPruneError(
            f"method {self.name!r} chooses inside the LLM and cannot select from an image alone; "
            "attach it to a model"
        )


def scaled_layers(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """Place published layers, those of a decoder of 32 layers, on another depth.

    Args:
        layers: Rising layers of a decoder of 32 layers.
        depth: Decoder layers L.

    Returns:
        The same fraction of the depth, at least 1, distinct and rising.

    Raises:
        ResPruneError: They are more than the L - 1 places for them.
    """
    found: list[int] = []
    for layer in layers:
        here = max(1, round(layer * depth / PUBLISHED_DEPTH))
        found.append(max(here, found[-1] + 1) if found else here)
    for i in range(len(found)):  # distinct layers may have been pushed off the end
        found[i] = min(found[i], depth - len(found) + i)
    if found and found[0] < 1:
        raise ResPruneError(
            f"layers {list(layers)} do not fit a decoder of {depth} layers; use fewer"
        )
    return tuple(found)
