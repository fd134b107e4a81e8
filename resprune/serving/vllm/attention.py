"""What a vision tower of vLLM attends to in one layer, recorded while it runs.

The layer keeps its kernel: queries and keys are looked at on their way to it, and the one softmax
is computed beside. Under tensor parallelism each rank has some of the heads, and the means over
them are averaged.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from resprune.errors import ResPruneError


class QueriesAndKeys:
    """Context manager that records queries and keys of an attention layer.

    Args:
        attention: The layer's ``MMEncoderAttention``, called with query, key and value first.
        cls: Keep the first query of each sequence alone.
    """

    def __init__(self, attention: Any, *, cls: bool = False) -> None:
        self._attention = attention
        self._cls = cls
        self._queries: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._handle: Any = None

    def __enter__(self) -> Self:
        def on_call(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            query = args[0] if args else kwargs["query"]
            key = args[1] if len(args) > 1 else kwargs["key"]
            self._queries.append((query[:, :1] if self._cls else query).detach())
            self._keys.append(key.detach())

        self._handle = self._attention.register_forward_pre_hook(on_call, with_kwargs=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.remove()

    def taken(self, dim: int) -> tuple[Tensor, Tensor]:
        """Return the queries and keys of all passes, joined along a dimension.

        Raises:
            ResPruneError: The layer did not call its kernel as a module.
        """
        if not self._keys:
            raise ResPruneError(
                "the vision tower ran without its attention being seen: it is compiled, or this "
                "vLLM runs it in another way; set compile_mm_encoder to false, or use the seed "
                "strategy 'l2_norm'"
            )
        return torch.cat(self._queries, dim), torch.cat(self._keys, dim)


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
