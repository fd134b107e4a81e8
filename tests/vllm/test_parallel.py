"""Two ranks share each layer: heads are averaged over them, and they keep the same tokens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vllm import configs
from tests.vllm.harness import ENGINE, Oracle, Served, config_files, pairs
from tests.vllm.test_equal import FAMILIES


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks need a CPU core each")
@pytest.mark.parametrize("name", ["nano-llava", "nano-qwen2.5-vl"])
def test_two_ranks(name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import LLM

    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asked, oracle = pairs(name), Oracle(folders[name])
    config = configs.config(*FAMILIES[name], [each.question for each in asked])
    overrides = {"resprune": config_files(config)}
    llm = LLM(str(folders[name]), hf_overrides=overrides, tensor_parallel_size=2, **ENGINE)
    try:
        served = Served(llm, None)
        for budget in (43, 41):  # the tower's attention, and adaptive
            expected = oracle.answers(asked, config, budget)
            prompts = [oracle.served(each, resprune_budget=budget) for each in asked]
            assert served.ask(prompts) == (expected.ids, expected.lengths)
    finally:
        llm.llm_engine.engine_core.shutdown()
