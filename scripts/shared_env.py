"""An environment whose large part all clones share; the scripts beside this one describe theirs.

What is large lies in a folder of its own, named after the pins, in the user's cache
(RESPRUNE_CACHE, else ~/.cache/resprune): it is made once for all clones. The environment itself
is thin: it sees that folder, and this clone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "pyproject.toml"  # its entry points are written into the thin part
UNAVAILABLE = 3
_QUIET = ("--quiet", "--disable-pip-version-check")


@dataclass(frozen=True)
class SharedEnv:
    """What the large part of an environment is.

    Attributes:
        name: Name of its folder in the cache, before the digest.
        what: What it has that this machine may not be able to install, for messages.
        pins: Requirements file of what is installed.
        gone: Packages that are uninstalled again.
        files: Other files that decide what it is.
        finish: Called with the folder of its packages before it is put in place.
    """

    name: str
    what: str
    pins: Path
    gone: Sequence[str] = ()
    files: Sequence[Path] = ()
    finish: Callable[[Path], None] | None = None

    @property
    def folder(self) -> Path:
        """The folder of the large part, named after the pins, the files and this Python."""
        digest = hashlib.sha256()
        for path in (self.pins, *self.files):
            digest.update(path.read_bytes())
        digest.update(f"{sys.version_info.major}.{sys.version_info.minor}".encode())
        cache = os.environ.get("RESPRUNE_CACHE") or Path.home() / ".cache" / "resprune"
        return Path(cache) / f"{self.name}-{digest.hexdigest()[:12]}"

    def make(self, target: Path) -> int:
        """Make the environment, what is there already left as it is.

        Args:
            target: Where the thin part is made.

        Returns:
            The exit code: 0, or 3 where the large part cannot be had here.
        """
        shared = self.folder
        try:
            self._make_shared(shared)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{self.what} cannot be installed here: {error}", file=sys.stderr)
            return UNAVAILABLE
        made_for = target / "made_for"
        wanted = f"{shared}\n{hashlib.sha256(PROJECT.read_bytes()).hexdigest()}\n"
        if not made_for.is_file() or made_for.read_text(encoding="utf-8") != wanted:
            _make_thin(target, shared)
            made_for.write_text(wanted, encoding="utf-8")
        print(f"{target} has {self.what} from {shared}")
        return 0

    def _make_shared(self, folder: Path) -> None:
        """Install the large part beside its final place, and rename it when it is whole."""
        if folder.is_dir():
            return
        beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            venv.create(beside, with_pip=True, symlinks=True)
            pip = [beside / "bin" / "python", "-m", "pip"]
            subprocess.run([*pip, "install", *_QUIET, "-r", self.pins], check=True)
            if self.gone:
                subprocess.run([*pip, "uninstall", "--yes", *_QUIET, *self.gone], check=True)
            if self.finish is not None:
                self.finish(_site_packages(beside))
            if not folder.is_dir():  # another clone may have made it meanwhile
                beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _make_thin(folder: Path, shared: Path) -> None:
    """Make the environment itself: the shared part, and this clone with its entry points."""
    venv.create(folder, with_pip=True, symlinks=True, clear=True)
    line = f"import site; site.addsitedir({str(_site_packages(shared))!r})\n"
    (_site_packages(folder) / "shared.pth").write_text(line, encoding="utf-8")
    install = ["-m", "pip", "install", *_QUIET, "--no-deps", "-e", ROOT]
    subprocess.run([folder / "bin" / "python", *install], check=True)


def _site_packages(environment: Path) -> Path:
    """Return where an environment's packages lie."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return environment / "lib" / version / "site-packages"
