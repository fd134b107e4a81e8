"""What several rivals share: rankings, the attention signal, and cosines."""

from __future__ import annotations

from torch import Tensor

from resprune.methods.base import Selection, SelectionInput, budget_of, needed


def by_score(score: Tensor) -> Tensor:
    """Order indices by falling score, ties to the lowest index.

    Args:
        score: One value a token, shape (T,).

    Returns:
        A permutation, shape (T,), int64.
    """
    return score.argsort(descending=True, stable=True)


def attention_of(inputs: SelectionInput, method: str) -> Tensor:
    """Fetch the attention that a token gets from CLS, averaged over heads.

    Towers without a CLS token give the attention a token receives from all others instead, as the
    rivals' authors do.

    Args:
        inputs: The image.
        method: Name of the method, for errors.

    Returns:
        Attention, shape (T,).

    Raises:
        ResPruneError: Neither signal is given.
    """
    present = "cls_attention" in inputs.signals or "received_attention" not in inputs.signals
    return needed(inputs, "cls_attention" if present else "received_attention", method)


def top(inputs: SelectionInput, score: Tensor, k: int) -> Selection:
    """Keep the ``k`` tokens of highest score.

    Args:
        inputs: The image.
        score: One value a token, shape (T,).
        k: Budget.

    Returns:
        The selection, best first.
    """
    return Selection(by_score(score)[: budget_of(inputs, k)])
