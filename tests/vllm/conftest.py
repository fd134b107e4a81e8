"""Tests of the vLLM plug-in: ``make test-vllm`` runs them in an environment of their own."""

from __future__ import annotations

import importlib.util
import os

import pytest

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ.update(
        HF_HUB_OFFLINE="1",
        OMP_NUM_THREADS="2",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # the model's own choice is looked at
        VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        VLLM_NO_USAGE_STATS="1",
    )


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The embedded models as vLLM can serve them, by name."""
    from studies.nano import model_names
    from tests.vllm.harness import served_folder

    folder = tmp_path_factory.mktemp("models")
    return {name: served_folder(name, folder) for name in model_names()}
