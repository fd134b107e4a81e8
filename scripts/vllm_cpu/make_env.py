"""Make an environment that serves on a CPU: vLLM's CPU build, and this project beside it.

    python scripts/vllm_cpu/make_env.py .venv-vllm

Its large part (3.5 GB) is shared, see ``scripts/shared_env.py``. Exit code 3 where vLLM cannot be
had here.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from shared_env import SharedEnv  # noqa: E402

SHIM = HERE / "torchvision_cpu_shim.py"


def add_shim(packages: Path) -> None:
    """Let torchvision's CUDA build be imported beside torch's CPU build."""
    shutil.copy(SHIM, packages)
    (packages / f"{SHIM.stem}.pth").write_text(f"import {SHIM.stem}\n", encoding="utf-8")


ENV = SharedEnv(
    name="vllm-cpu",
    what="vLLM's CPU build",
    pins=HERE / "pins.txt",
    gone=("torchaudio", "torchcodec"),  # CUDA builds, which die beside torch's; not needed here
    files=(SHIM,),
    finish=add_shim,
)

if __name__ == "__main__":
    sys.exit(ENV.make(Path(sys.argv[1]).resolve()))
