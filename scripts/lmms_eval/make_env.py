"""Make an environment that evaluates with lmms-eval: a CPU build of torch, and this project.

    python scripts/lmms_eval/make_env.py .venv-lmms

Its large part (2.4 GB) is shared, see ``scripts/shared_env.py``. Exit code 3 where lmms-eval
cannot be had here.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from shared_env import SharedEnv  # noqa: E402


def drop_tests(packages: Path) -> None:
    """Remove a package named ``tests`` (of latex2sympy2), which would hide this project's own."""
    shutil.rmtree(packages / "tests", ignore_errors=True)


ENV = SharedEnv(
    name="lmms-eval",
    what="lmms-eval",
    pins=HERE / "pins.txt",
    gone=("torchvision",),  # a CUDA build, which dies beside torch's; only videos need it
    finish=drop_tests,
)

if __name__ == "__main__":
    sys.exit(ENV.make(Path(sys.argv[1]).resolve()))
