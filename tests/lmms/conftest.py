"""Tests with lmms-eval: ``make test-lmms`` runs them in an environment of their own."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest

if importlib.util.find_spec("lmms_eval") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    # both are read when datasets and lmms-eval are imported
    _home = tempfile.mkdtemp(prefix="lmms-")
    atexit.register(shutil.rmtree, _home, ignore_errors=True)
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_DATASETS_CACHE=f"{_home}/datasets",
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
        LMMS_EVAL_HOME=f"{_home}/lmms-eval",
        TOKENIZERS_PARALLELISM="false",
    )


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of local tasks: ``nano_one``, ``nano_wide`` and ``nano_mixed``."""
    from tests.lmms.tasks import write_tasks

    return write_tasks(tmp_path_factory.mktemp("scenes"))
