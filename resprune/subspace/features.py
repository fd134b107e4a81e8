"""Inner products of the tokens of one image, computed where the lazy path asks for them."""

from __future__ import annotations

import torch
from torch import Tensor

from resprune.subspace.gram import check_finite, gram_matrix, unit_rows, working_dtype

_SMALL = 256  # tokens up to which the whole Gram matrix may be the cheapest way
# it is where picks alone cost more: each a pass over the features, and the fixed time of so many
# numbers; a matrix product takes half of the time for a number
_FIXED, _PRODUCT = 2**20, 2
_SMALL_SHARED = 1024  # tokens up to which it is where several settings share it
_STRIP = 64  # columns at once: reading all features for one costs nearly as much


class Features:
    """The unit rows of one image.

    Attributes:
        norms: Lengths of the tokens in float64, shape (T,).
        dtype: What the inner products are computed in.
        at_hand: Whether the columns of the Gram matrix cost little or are shared.
    """

    def __init__(self, tokens: Tensor, picks: int, gram: Tensor | None = None) -> None:
        """Take the tokens of one image.

        Args:
            tokens: Shape (T, d).
            picks: How many will be asked for.
            gram: Their Gram matrix, where it is at hand.

        Raises:
            ResPruneError: A token that is not finite.
        """
        self.dtype = working_dtype(tokens)
        self._tokens, self._rows, self._picks = tokens, tokens.to(self.dtype), picks
        norms = torch.linalg.vector_norm(self._rows, dim=1)
        # Copying T x d numbers to scale them costs as much as a pick; scale the products instead,
        # except where squares leave the range of the dtype.
        limit = torch.finfo(self.dtype).max ** 0.375
        odd = ~((norms > 1 / limit) & (norms < limit))
        strange = bool(odd.any())
        if strange:
            check_finite(self._rows)
        if strange and bool((self._rows[odd] != 0).any()):  # others than zero tokens
            self._rows, self.norms = unit_rows(tokens)
            self._inverse = torch.ones_like(norms)
        else:
            self.norms = norms.double()
            self._inverse = torch.where(norms > 0, 1 / norms, 0)
        if gram is None and self._is_small(len(tokens), tokens.shape[1], picks):
            gram = gram_matrix(tokens)
        self._gram = None if gram is None else gram.to(self.dtype)
        self._double: Features | None = None
        self.at_hand = self._gram is not None

    @staticmethod
    def _is_small(count: int, width: int, picks: int) -> bool:
        alone = picks * (_FIXED + count * width)
        return count <= _SMALL and _PRODUCT * alone >= count * count * width

    def in_double(self) -> Features:
        """The same image with inner products in float64."""
        if self._double is None:
            self._double = type(self)(self._tokens.double(), self._picks)
        return self._double

    def block(self, indices: Tensor, soon: Tensor) -> Tensor:
        """Inner products among some tokens; not to be written to.

        Args:
            indices: The tokens, rising, shape (m,).
            soon: Tokens that are likely to be asked for next.

        Returns:
            Shape (m, m).
        """
        if self._gram is None:
            return self._block(indices, soon)
        whole = len(indices) == len(self._gram)
        return self._gram if whole else self._gram[indices[:, None], indices]

    def columns(self, indices: Tensor) -> Tensor:
        """Inner products of some tokens with all; a copy of shape (b, T)."""
        return self._strip(indices) if self._gram is None else self._gram[indices]

    def column(self, index: int) -> Tensor:
        """Inner products of one token with all; a copy of shape (T,)."""
        if self._gram is not None:
            return self._gram[index].clone()
        inverse = self._inverse
        return torch.mv(self._rows, self._rows[index]).mul_(inverse).mul_(inverse[index])

    def between(self, picked: Tensor, tokens: Tensor) -> Tensor:
        """Inner products of some tokens (b,) with others (n,), shape (b, n)."""
        left = self._unit(picked)
        return (left @ self._rows.index_select(0, tokens).T).mul_(self._inverse[tokens])

    def _block(self, indices: Tensor, soon: Tensor) -> Tensor:
        rows = self._unit(indices)
        return rows @ rows.T

    def _strip(self, indices: Tensor) -> Tensor:
        return (self._unit(indices) @ self._rows.T).mul_(self._inverse)

    def _unit(self, indices: Tensor) -> Tensor:
        # index_select copies whole rows; indexing takes eight times as long over them.
        return self._rows.index_select(0, indices).mul_(self._inverse[indices][:, None])


class SharedFeatures(Features):
    """The unit rows of one image that several settings order: what one asked for is kept."""

    def __init__(self, tokens: Tensor, picks: int, gram: Tensor | None = None) -> None:
        """As ``Features``."""
        super().__init__(tokens, picks, gram)
        self._kept = torch.empty(0, len(tokens), dtype=self.dtype)
        self._slot = torch.full((len(tokens),), -1)
        self._used = 0
        self.at_hand = True

    @staticmethod
    def _is_small(count: int, width: int, picks: int) -> bool:
        return count <= _SMALL_SHARED

    def columns(self, indices: Tensor) -> Tensor:
        """As ``Features``; what is computed is kept."""
        if self._gram is not None:
            return self._gram[indices]
        self._keep(indices, indices[:0])
        return self._kept[self._slot[indices]]

    def _block(self, indices: Tensor, soon: Tensor) -> Tensor:
        self._keep(indices, soon)
        return self._kept[self._slot[indices][:, None], indices]

    def _keep(self, indices: Tensor, soon: Tensor) -> None:
        missing = indices[self._slot[indices] < 0]
        if not len(missing):
            return
        soon = soon[self._slot[soon] < 0]
        missing = torch.cat((missing, soon[: max(0, _STRIP - len(missing))]))
        start, self._used = self._used, self._used + len(missing)
        self._slot[missing] = torch.arange(start, self._used)
        if self._used > len(self._kept):
            room = torch.empty(2 * self._used, len(self._slot), dtype=self.dtype)
            room[:start] = self._kept[:start]
            self._kept = room
        self._kept[start : self._used] = self._strip(missing)
