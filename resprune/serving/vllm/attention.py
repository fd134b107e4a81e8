"""What a vision tower of vLLM attends to in one layer, recorded while it runs.

The layer keeps its kernel: queries and keys are looked at on their way to it, and the one softmax
is computed beside. Under tensor parallelism each rank has some of the heads, and the means over
them are averaged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resprune.errors import ResPruneError


@dataclass
class QueriesAndKeys:
    """Queries and keys of an attention layer, one tensor a pass.

    Attributes:
        queries: Queries; the first of each sequence alone where only the CLS token's are asked.
        keys: Keys.
    """

    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)

    def taken(self, dim: int) -> tuple[Tensor, Tensor]:
        """Return the queries and keys of all passes, joined along a dimension.

        Raises:
            ResPruneError: The layer did not call its kernel as a module.
        """
        if not self.keys:
            raise ResPruneError(
                "the vision tower ran without its attention being seen: this vLLM runs it in "
                "another way; use the seed strategy 'l2_norm'"
            )
        return torch.cat(self.queries, dim), torch.cat(self.keys, dim)


@contextlib.contextmanager
def recording(attention: Any, signals: Collection[str]) -> Iterator[QueriesAndKeys]:
    """Record what signals are made from, while the tower runs within.

    Args:
        attention: The layer's ``MMEncoderAttention``, called with query, key and value first.
        signals: Names of the signals; where there are none, nothing is recorded.
    """
    seen = QueriesAndKeys()

    def on_call(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        query = args[0] if args else kwargs["query"]
        key = args[1] if len(args) > 1 else kwargs["key"]
        seen.queries.append((query[:, :1] if "cls_attention" in signals else query).detach())
        seen.keys.append(key.detach())

    with contextlib.ExitStack() as stack:
        if signals:
            hook = attention.register_forward_pre_hook(on_call, with_kwargs=True)
            stack.callback(hook.remove)
        yield seen


def over_ranks(scores: Tensor, ranks: int) -> Tensor:
    """Average scores over the ranks that each have some of the heads.

    Args:
        scores: Means over this rank's heads.
        ranks: How many ranks share the layer.
    """
    if ranks == 1:
        return scores
    from vllm.distributed import tensor_model_parallel_all_reduce

    total: Tensor = tensor_model_parallel_all_reduce(scores)
    return total / ranks


def agreed(kept: list[Tensor]) -> list[Tensor]:
    """Give every rank the first one's kept indices: rounding must not make them differ."""
    from vllm.distributed import get_tp_group

    group = get_tp_group()
    if group.world_size == 1:
        return kept
    flat = group.broadcast(torch.cat(kept), src=0)
    return list(torch.split(flat, [len(each) for each in kept]))
