"""Make an environment that serves on a CPU: vLLM's CPU build, and this project beside it.

    python scripts/vllm_cpu/make_env.py .venv-vllm

What is large (3.5 GB) lies in a folder of its own, named after the pins, in the user's cache
(RESPRUNE_CACHE, else ~/.cache/resprune): it is made once for all clones. The environment itself
is thin: it sees that folder, and this clone. Exit code 3 where vLLM cannot be had here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PINS = HERE / "pins.txt"
SHIM = HERE / "torchvision_cpu_shim.py"
UNAVAILABLE = 3
_QUIET = ("--quiet", "--disable-pip-version-check")


def shared_folder() -> Path:
    """Return the folder of the large part, named after the pins, the shim and this Python."""
    kind = f"{sys.version_info.major}.{sys.version_info.minor}".encode()
    digest = hashlib.sha256(PINS.read_bytes() + SHIM.read_bytes() + kind).hexdigest()[:12]
    cache = os.environ.get("RESPRUNE_CACHE") or Path.home() / ".cache" / "resprune"
    return Path(cache) / f"vllm-cpu-{digest}"


def make_shared(folder: Path) -> None:
    """Install the large part beside its final place, and rename it when it is whole."""
    if folder.is_dir():
        return
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        venv.create(beside, with_pip=True, symlinks=True)
        python = beside / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", *_QUIET, "-r", PINS], check=True)
        # CUDA builds, which die beside torch's CPU build; nothing here needs them
        gone = ["torchaudio", "torchcodec"]
        subprocess.run([python, "-m", "pip", "uninstall", "--yes", *_QUIET, *gone], check=True)
        packages = site_packages(beside)
        shutil.copy(SHIM, packages)
        (packages / f"{SHIM.stem}.pth").write_text(f"import {SHIM.stem}\n", encoding="utf-8")
        if not folder.is_dir():  # another clone may have made it meanwhile
            beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def make_thin(folder: Path, shared: Path) -> None:
    """Make the environment itself: the shared part, and this clone with its entry points."""
    venv.create(folder, with_pip=True, symlinks=True, clear=True)
    line = f"import site; site.addsitedir({str(site_packages(shared))!r})\n"
    (site_packages(folder) / "shared.pth").write_text(line, encoding="utf-8")
    install = ["-m", "pip", "install", *_QUIET, "--no-deps", "-e", ROOT]
    subprocess.run([folder / "bin" / "python", *install], check=True)


def site_packages(environment: Path) -> Path:
    """Return where an environment's packages lie."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return environment / "lib" / version / "site-packages"


def main() -> int:
    """Make the environment that the one argument names."""
    target, shared = Path(sys.argv[1]).resolve(), shared_folder()
    try:
        make_shared(shared)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"vLLM's CPU build cannot be installed here: {error}", file=sys.stderr)
        return UNAVAILABLE
    made_for = target / "made_for"
    if not made_for.is_file() or made_for.read_text(encoding="utf-8") != str(shared):
        make_thin(target, shared)
        made_for.write_text(str(shared), encoding="utf-8")
    print(f"{target} serves with {shared}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
