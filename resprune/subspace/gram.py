"""Rows of length one and the inner products between them, as the greedy expansion needs them."""

from __future__ import annotations

import torch
from torch import Tensor

from resprune.errors import ResPruneError

_MIRRORED_FROM = 512  # rows a strip of a large Gram matrix has


def working_dtype(tokens: Tensor) -> torch.dtype:
    """Float64 for float64 tokens, else float32 (so bfloat16 features are never squared as such)."""
    return torch.float64 if tokens.dtype == torch.float64 else torch.float32


def check_finite(tokens: Tensor) -> None:
    """Refuse tokens, shape (..., T, d), that are not finite.

    Raises:
        ResPruneError: It names the first such token.
    """
    finite = torch.isfinite(tokens).all(dim=-1)
    if not bool(finite.all()):
        *image, token = (~finite).nonzero()[0].tolist()
        place = f"image {image[0]}, token {token}" if image else f"token {token}"
        raise ResPruneError(
            f"tokens hold a non-finite value ({place}); check the encoder's output (float16 "
            "overflow is the usual cause: load the model in bfloat16 or float32)."
        )


def unit_rows(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Split tokens into directions and lengths.

    Energies relative to a token's own norm, which is what exhaustion is measured in, are the
    energies of the unit rows; and unit rows neither overflow nor underflow when squared.

    Args:
        tokens: Visual tokens, shape (..., T, d).

    Returns:
        Unit rows (zero rows stay zero), shape (..., T, d), in float32, or float64 for float64
        tokens; and lengths in float64, shape (..., T).
    """
    values = tokens.to(working_dtype(tokens))
    tiny = torch.finfo(values.dtype).tiny
    peak = values.abs().amax(dim=-1, keepdim=True) if values.shape[-1] else values.sum(-1, True)
    scaled = values / peak.clamp_min(tiny)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / length.clamp_min(tiny), (peak.double() * length.double()).squeeze(-1)


@torch.no_grad()
def gram_matrix(tokens: Tensor) -> Tensor:
    """Inner products of the unit rows: the cosines that every setting of one image shares.

    Args:
        tokens: Visual tokens, shape (..., T, d).

    Returns:
        Cosines, shape (..., T, T), float32 (float64 for float64 tokens); rows and columns of zero
        tokens are zero. Pass it as ``gram`` to ``greedy_order_batch``.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        rows, _ = unit_rows(tokens)
        count = rows.shape[-2]
        if rows.is_cuda or count < 2 * _MIRRORED_FROM:
            return rows @ rows.transpose(-1, -2)
        # Half of a symmetric product is enough: compute strips right of the diagonal, mirror them.
        gram = rows.new_empty(*rows.shape[:-1], count)
        for start in range(0, count, _MIRRORED_FROM):
            stop = min(start + _MIRRORED_FROM, count)
            strip = rows[..., start:stop, :] @ rows[..., start:, :].transpose(-1, -2)
            gram[..., start:stop, start:] = strip
            gram[..., stop:, start:stop] = strip[..., stop - start :].transpose(-1, -2)
        return gram
