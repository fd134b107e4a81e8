"""Let torchvision's CUDA build, the only one on PyPI, be imported beside a CPU build of torch.

Its compiled operators are missing then, and importing it dies where it looks up two of their
schemas. Those are declared here before it is imported; nothing that vLLM does with images calls
them. A ``.pth`` file of the environment imports this module at start.
"""

from __future__ import annotations

import sys
from typing import Any

_SCHEMAS = ("nms", "qnms")


class _BeforeTorchvision:
    """A finder that finds nothing, and declares the schemas when torchvision is asked for."""

    library: Any = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        import torch

        # kept: the schemas go when the library object does
        _BeforeTorchvision.library = torch.library.Library("torchvision", "DEF")
        for name in _SCHEMAS:
            _BeforeTorchvision.library.define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )


sys.meta_path.insert(0, _BeforeTorchvision())  # type: ignore[arg-type]
