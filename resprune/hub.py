"""Folders of small files by path or hub id, and their upload."""

from __future__ import annotations

import os
import re
from pathlib import Path

from resprune.errors import ConfigError


def folder_of(source: str | os.PathLike[str], revision: str | None, file: str) -> Path:
    """Return the folder that a path or a hub id stands for.

    Args:
        source: A folder, or a hub id.
        revision: Hub revision.
        file: What is wanted in it; nothing else is fetched from the hub.

    Returns:
        The folder.

    Raises:
        ConfigError: No folder and no hub id, or the hub does not give it.
    """
    name = os.fspath(source)
    if not name.strip():
        raise ConfigError("the config's folder is an empty name; give a folder or a hub id")
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return path
        if path.exists():
            raise ConfigError(f"{name}: a file; give the folder that holds {file}")
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror})") from error
    if not isinstance(source, str) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ConfigError(f"{name}: no such folder, and not a hub id of the form user/name")
    return _download(name, revision, file)


def upload(folder: Path, repo_id: str, private: bool | None) -> str:
    """Upload a folder to a model repository, created when missing.

    Args:
        folder: What to upload.
        repo_id: ``user/name``.
        private: Whether a created repository is private.

    Returns:
        Address of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder)).commit_url)


def _download(name: str, revision: str | None, file: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[file]))
    except Exception as error:  # hub errors have no common base; all mean "not had from there"
        said = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"{name}: no such folder, and the hub did not give it ({type(error).__name__}: {said})"
        ) from error
